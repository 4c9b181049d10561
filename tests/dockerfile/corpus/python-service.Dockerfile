FROM python:3.12-slim
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install -y --no-install-recommends \
    build-essential \
    # needed for psycopg
    libpq-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /tmp/
RUN pip install -r /tmp/requirements.txt
COPY --chown=1000:1000 . /app
WORKDIR /app
USER 1000:1000
CMD ["gunicorn", "-b", "0.0.0.0:8000", "app:app"]
