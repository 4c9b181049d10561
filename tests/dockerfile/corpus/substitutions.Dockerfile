FROM debian
ARG v=abc.tar.gz
ENV A=${v} B=${v:-d} C=${v-d} D=${v:+s} E=${v+s} F=${v:?e} G=${v?e}
ENV H=${v#*.} I=${v##*.} J=${v%.*} K=${v%%.*} L=${v/a/b} M=${v//./_}
