# check=skip=SecretsUsedInArgOrEnv
FROM debian
ARG API_TOKEN
# check=skip=UndefinedVar
ENV X=$NOPE
