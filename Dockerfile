# The server alone: MongoDB and S3 are elsewhere. See docs/deployment.md.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/genstatus_server
# The dependencies first, each of the version and with the hash in the lock file: they change less often than the source.
COPY requirements.lock ./
RUN /opt/genstatus_server/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY setup.py pyproject.toml README.md LICENSE ./
COPY genstatus_server genstatus_server
RUN /opt/genstatus_server/bin/pip install --no-cache-dir --no-deps . \
    && /opt/genstatus_server/bin/pip check

FROM python:3.12-slim AS runtime
COPY --from=build /opt/genstatus_server /opt/genstatus_server
ENV PATH=/opt/genstatus_server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
# No user of the system; it owns nothing in the image and writes nowhere.
USER 65532:65532

# docker build --target worker: the example of a worker, for compose.yaml.
FROM runtime AS worker
COPY examples/worker.py /opt/worker.py
HEALTHCHECK NONE
ENTRYPOINT ["python", "/opt/worker.py"]

FROM runtime AS server
ENV GENSTATUS_ADDRESS=0.0.0.0 \
    GENSTATUS_PORT=8888
EXPOSE 8888
# It follows the port in the environment. A --port among the arguments needs a HEALTHCHECK of its own.
HEALTHCHECK --interval=10s --timeout=3s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"GENSTATUS_PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["genstatus"]
CMD ["serve"]
