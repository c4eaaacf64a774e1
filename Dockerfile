# The server alone: MongoDB and S3 are elsewhere. See docs/deployment.md.
FROM python:3.12-slim AS build
WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY genstatus_server genstatus_server
RUN python -m venv /opt/genstatus_server && /opt/genstatus_server/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/genstatus_server /opt/genstatus_server
ENV PATH=/opt/genstatus_server/bin:$PATH \
    GENSTATUS_ADDRESS=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1
# Nobody in particular; nothing in the image belongs to it, and it writes nowhere.
USER 65532:65532
EXPOSE 8888
HEALTHCHECK --interval=10s --timeout=3s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8888/livez', timeout=2)"]
ENTRYPOINT ["genstatus"]
CMD ["serve"]
