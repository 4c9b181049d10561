FROM debian
RUN <<EOF
set -e
apt-get update

# a comment inside is content
apt-get install -y curl \
    git
EOF
CMD ["curl"]
