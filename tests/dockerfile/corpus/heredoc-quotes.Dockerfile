FROM debian
COPY <<'ONE' /1
$literal
ONE
COPY <<"TWO" /2
$literal
TWO
COPY <<TH'RE'E /3
$literal
THREE
COPY <<\FOUR /4
$expanded
FOUR
