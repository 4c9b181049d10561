FROM debian
RUN <<-EOF
	if true; then
		echo tabs
	fi
	EOF
COPY <<-"END" /config
		key = $value
	END
