# build compiles everything
FROM debian AS build
# TARGET is what to make
ARG TARGET=all
#
# not a description
RUN make $TARGET
