FROM debian
ENV one=1 two="2 3" three='4 "5"' four=6\ 7 five=
ENV legacy value with   spaces and = signs
ENV a=$b c="$d e" f='$g'
ENV URL=http://x/?a=b&c=d
