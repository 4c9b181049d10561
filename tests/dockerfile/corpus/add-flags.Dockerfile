FROM debian
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/a.tar.gz /src/
ADD --keep-git-dir=true https://github.com/example/repo.git#v1.0:sub /repo
ADD --unpack=false rootfs.tar.xz /
ADD --unpack https://example.com/b.tar /b/
