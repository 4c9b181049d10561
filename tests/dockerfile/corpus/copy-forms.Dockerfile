FROM debian
COPY a b c/
COPY ["with space", "and \"quotes\"", "/dir/"]
COPY * .
COPY a?[0-9].txt /x
COPY --  a b
