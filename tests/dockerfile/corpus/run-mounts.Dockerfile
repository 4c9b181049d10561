FROM debian
RUN --mount=type=cache,target=/root/.cache,id=pip,sharing=locked,mode=0700,uid=1000,gid=1000 \
    --mount=type=bind,source=.,target=/src,rw \
    --mount=type=tmpfs,target=/tmp,size=64m \
    --mount=type=secret,id=token,env=TOKEN,required=true \
    --mount=type=ssh,id=default \
    pip install .
