FROM --platform=$BUILDPLATFORM golang:1.24 AS build
FROM --platform=linux/arm64 debian:trixie@sha256:0000000000000000000000000000000000000000000000000000000000000000
FROM registry.example.com:5000/team/app:1.0_beta
