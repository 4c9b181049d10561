FROM debian
COPY --from=base --chown=app:app --chmod=u=rwX,go=rX --link --parents --exclude=*.md --exclude=**/test ./a/./b/ /x/
COPY --link=false a b
