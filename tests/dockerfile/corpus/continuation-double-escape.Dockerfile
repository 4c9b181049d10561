FROM debian
RUN echo a\\
RUN echo b\\\
RUN echo c \\ \
  d
