FROM debian
RUN --network=none --security=insecure make
RUN --network=host --security=sandbox -- --not-a-flag
