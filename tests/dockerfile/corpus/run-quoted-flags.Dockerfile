FROM debian
RUN --mount="type=bind,target=/a b" --mount='type=cache,target=/c' --network=none ls
