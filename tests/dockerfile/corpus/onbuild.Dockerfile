FROM debian
ONBUILD COPY . /src
ONBUILD RUN --mount=type=cache,target=/c make
ONBUILD ENV A=b
ONBUILD CMD ["app"]
onbuild run true
