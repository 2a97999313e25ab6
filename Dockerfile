# docker build -t qsmflow . && docker run --rm -v BIDS:/bids:ro -v OUT:/out qsmflow /bids /out participant
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# pip's own variables: where PyTorch's CPU builds are, a folder of wheels, the certificates of a proxy.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_FIND_LINKS
ARG PIP_CERT
RUN python3 -m venv /opt/qsmflow
WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY qsmflow qsmflow
COPY workflows workflows
# What no run needs goes: the packages' own tests, C++ headers and programs, pip. The byte code stays, because a
# read-only root cannot keep what Python compiles when it starts.
RUN /opt/qsmflow/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt . \
    && cd /opt/qsmflow/lib/python3*/site-packages \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && rm -rf torch/include torch/share torch/test pip pip-*.dist-info /opt/qsmflow/bin/pip*

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
# As process 1 Python heeds SIGINT but not SIGTERM.
STOPSIGNAL SIGINT
ENTRYPOINT ["qsmflow"]
