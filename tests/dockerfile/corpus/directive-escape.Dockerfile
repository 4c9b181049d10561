# escape=`
FROM mcr.example.com/windows/servercore
COPY app\bin C:\app\
RUN dir `
    C:\app
