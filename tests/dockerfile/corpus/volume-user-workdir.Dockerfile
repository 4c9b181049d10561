FROM debian
VOLUME /data /log
VOLUME ["/with space", "/b"]
USER app:app
WORKDIR /srv/my app
WORKDIR rel/ative
STOPSIGNAL SIGQUIT
USER 1000
