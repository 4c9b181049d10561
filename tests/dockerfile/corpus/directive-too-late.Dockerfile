# just a comment
# escape=`
FROM debian
RUN a \
  && b
