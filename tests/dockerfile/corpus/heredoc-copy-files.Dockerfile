FROM scratch
COPY --chmod=0755 --chown=1000:1000 <<run.sh <<conf.ini LICENSE /app/
#!/bin/sh
exec app
run.sh
[section]
key=${VALUE}
conf.ini
