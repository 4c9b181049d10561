FROM debian
RUN one \
# why
    two \
    # and why
    three
