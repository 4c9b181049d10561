FROM debian
RUN echo "it's
ENV a="b c
