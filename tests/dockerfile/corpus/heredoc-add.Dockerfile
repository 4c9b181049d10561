FROM scratch
ADD <<hello.txt /
hello
hello.txt
