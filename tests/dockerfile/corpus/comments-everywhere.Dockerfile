# a comment first

   # an indented one
FROM debian
# between
RUN echo '# neither is this' \
    # but this is
 && echo done
#
# the last line has no line feed
CMD ["true"]