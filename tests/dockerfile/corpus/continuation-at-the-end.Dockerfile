FROM debian
RUN echo \