FROM debian
ONBUILD RUN <<EOF
make
make install
EOF
ONBUILD COPY <<-X /x
	content
	X
