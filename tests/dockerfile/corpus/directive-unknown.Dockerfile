# version=3
# escape=`
FROM debian
