FROM	debian	AS	x
ENV	a=b		c=d
COPY	a	 	b
RUN		echo	1
