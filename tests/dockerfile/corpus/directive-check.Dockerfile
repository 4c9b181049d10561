# check=skip=JSONArgsRecommended;error=true
FROM debian
CMD sleep 1
