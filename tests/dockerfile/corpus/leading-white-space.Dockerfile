   FROM debian
	 RUN true
      CMD ["x"]
