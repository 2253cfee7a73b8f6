# The sample site under uvicorn. State lives in memory unless FASTSTATE_STORE says otherwise, so it runs one worker.
#
#   docker build -t faststate-sample .
#   docker run --rm -p 5001:5001 -e FASTSTATE_SECRET_KEY="$(openssl rand -hex 32)" faststate-sample

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
    PYTHONUNBUFFERED=1
COPY --from=build /opt/venv /opt/venv
COPY sample_site ./sample_site
# A number needs no entry in /etc/passwd and lets Kubernetes see that it is not root.
USER 10001:10001
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:5001/faststate/health', timeout=2)"]
CMD ["uvicorn", "sample_site.main:app", "--host", "0.0.0.0", "--port", "5001", "--workers", "1", "--timeout-graceful-shutdown", "10"]
