FROM debian
RUN <<EOF
one
EOF
