FROM debian AS build
RUN make
FROM build AS test
RUN make check
FROM scratch
COPY --from=build /out /
COPY --from=0 /doc /doc
COPY --from=busybox:musl /bin/busybox /bin/
