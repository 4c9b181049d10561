FROM debian
LABEL simple=1 "quoted key"="quoted value" multi="line \
break"
LABEL org.example.title My Title
LABEL empty="" \
      dotted.name=x
