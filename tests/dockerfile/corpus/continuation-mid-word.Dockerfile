FROM deb\
ian
RU\
N true
