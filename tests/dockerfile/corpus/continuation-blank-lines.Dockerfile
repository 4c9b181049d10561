FROM debian
RUN first \

    second \
   
    third
RUN fourth
