#!/usr/bin/env polyarch-build
# syntax=docker/dockerfile:1
# escape=`
FROM debian
RUN a \
  && b
