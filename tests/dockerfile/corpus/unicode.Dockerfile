FROM debian
LABEL naïve="élève" 名前="値"
RUN echo '…' && echo 😀
COPY <<ÉOF /ü
ça
ÉOF
