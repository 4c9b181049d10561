FROM --platform=$BUILDPLATFORM debian:trixie AS build
ARG TARGETARCH
RUN <<EOF
case $TARGETARCH in
  amd64) echo x86_64-linux-gnu ;;
  arm64) echo aarch64-linux-gnu ;;
esac > /triple
apt-get update
apt-get install -y gcc-$(cat /triple)
EOF
COPY <<EOF /hello.c
int main(void) { return 0; }
EOF
RUN $(cat /triple)-gcc -static -o /hello /hello.c
FROM scratch
COPY --from=build /hello /
ENTRYPOINT ["/hello"]
