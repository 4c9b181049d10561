FROM debian
RUN <<EOF
FROM scratch
RUN <<INNER
EOF
USER nobody
