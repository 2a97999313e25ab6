# syntax=docker/dockerfile:1
# docker build -t qsmflow . && docker run --rm -v BIDS:/bids:ro -v OUT:/out qsmflow /bids /out participant
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY qsmflow qsmflow
COPY workflows workflows
RUN python3 -m venv /opt/qsmflow \
    && /opt/qsmflow/bin/pip install --no-cache-dir --no-compile -c constraints.txt . \
    && find /opt/qsmflow -name '*.pyc' -delete \
    && find /opt/qsmflow -type d -name tests -path '*/site-packages/*' -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="qsmflow" \
      org.opencontainers.image.description="Quantitative susceptibility mapping as a BIDS-App" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/qsmflow /opt/qsmflow
# Any user id, a read-only root and no home folder must do: what is written goes to /out, /work and /tmp.
RUN mkdir -m 1777 /work
ENV PATH=/opt/qsmflow/bin:$PATH \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    NO_ET=1 \
    MPLBACKEND=Agg \
    OMP_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1
WORKDIR /tmp
VOLUME /work
ENTRYPOINT ["qsmflow"]
