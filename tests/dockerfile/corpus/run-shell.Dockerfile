FROM debian
RUN echo "hello   world" | tee /x && \
    for i in 1 2 3; do echo $i; done
