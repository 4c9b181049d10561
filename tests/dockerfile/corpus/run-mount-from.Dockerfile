FROM debian AS tools
FROM debian
ARG DIR=/cache
RUN --mount=from=tools,source=/bin,target=/tools --mount=type=cache,target=${DIR} true
