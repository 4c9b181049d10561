FROM debian
RUN echo $((1<<2)) && cat <<<word
RUN echo "<<EOF" '<<EOF'
RUN ["cat", "<<EOF"]
ENV OP=<<EOF
CMD cat <<EOF
