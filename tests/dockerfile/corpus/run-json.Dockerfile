FROM debian
RUN ["/bin/sh", "-c", "echo \"quoted\" \u00e9"]
RUN [ ]
RUN   ["spaced" , "out"]  
