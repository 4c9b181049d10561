FROM debian
RUN <<  EOF
one
EOF
RUN cat 3<<	A << "B" > /x
a
A
b
B
RUN cat <<- EOF
RUN a << -b
c
-b
