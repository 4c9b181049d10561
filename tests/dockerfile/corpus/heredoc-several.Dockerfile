FROM debian
RUN <<ONE cat - /dev/fd/3 3<<TWO > /out
first
ONE
second
TWO
RUN cat <<A && cat <<B
a
A
b
B
