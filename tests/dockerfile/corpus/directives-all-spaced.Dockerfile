#  syntax = docker/dockerfile:1.7  
# Escape=`
#check=skip=all
FROM debian
