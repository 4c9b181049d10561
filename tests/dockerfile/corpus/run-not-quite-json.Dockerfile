FROM debian
RUN [ -f /etc/passwd ]
RUN ['single', 'quotes']
RUN ["trailing",]
RUN ["more"] behind
RUN [[ a == b ]] && true
