FROM python:3.11-slim AS packages
COPY requirements.txt .
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /srv/sms --no-create-home --shell /usr/sbin/nologin sms
WORKDIR /srv/sms
COPY --from=packages /venv /venv
COPY . .
# The code belongs to root. Only this folder is the service's own: SQLite's files, where DATABASE_URL names none.
RUN python -m compileall -q . && install --directory --owner=sms --group=sms --mode=0700 instance
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER sms
EXPOSE 8000
# Not /readyz: a web process is not to be replaced because its database is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# gunicorn fails on an empty WEB_CONCURRENCY, which a copied `.env.example` holds.
CMD ["sh", "-c", "test -n \"$WEB_CONCURRENCY\" || unset WEB_CONCURRENCY; exec gunicorn --bind 0.0.0.0:8000 'app:create_app()'"]
