FROM debian
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENTRYPOINT exec top -b
ENTRYPOINT ["top", "-b"]
CMD echo $HOME
CMD ["-c"]
CMD []
