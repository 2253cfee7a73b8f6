# The sample site under uvicorn. State lives in a SQLite file in /app/data; FASTSTATE_STORE may name PostgreSQL or Redis.
#
#   docker build -t faststate-sample .
#   docker run --rm -p 5001:5001 -v faststate-data:/app/data -e FASTSTATE_SECRET_KEY="$(openssl rand -hex 32)" \
#     faststate-sample
#
# -e WEB_CONCURRENCY=4 runs four workers on the same file.

FROM python:3.11-slim AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY faststate_asgi ./faststate_asgi
RUN /opt/venv/bin/pip install --quiet ".[all]" "uvicorn[standard]>=0.54"

FROM python:3.11-slim
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FASTSTATE_STORE=sqlite+aiosqlite:///data/sample.db
COPY --from=build /opt/venv /opt/venv
COPY sample_site ./sample_site
# Whichever user the container runs as may write here, and a new volume takes the mode over.
RUN mkdir -m 1777 data
# A number needs no entry in /etc/passwd and lets Kubernetes see that it is not root.
USER 10001:10001
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:5001/faststate/health', timeout=2)"]
# Redis needs no tables; `exec` lets the server hear the signals of the container.
CMD ["sh", "-c", "case \"$FASTSTATE_STORE $FASTSTATE_DATABASE_URL\" in *sqlite*|*postgres*) python -m faststate_asgi create-tables ;; esac && exec uvicorn sample_site.main:app --host 0.0.0.0 --port 5001 --timeout-graceful-shutdown 10"]
