# Two images of one tree: `--target operator` (no torch) and `--target trainer`. See docs/image.md.
#
#   base ─┬─ code: the wheel of this tree ───────────────┐
#         ├─ operator-dependencies ─ operator  <─────────┤ one thin layer
#         └─ trainer-dependencies ── trainer   <─────────┘
#
# Without a package index: put the wheels of requirements/<target>.txt and build.txt into requirements/wheels/.
ARG BASE=python:3.11-slim

FROM ${BASE} AS base
# A name for the user: libraries ask for it, and a number alone has none.
RUN echo 'rewarm:x:65532:65532:rewarm:/var/lib/rewarm:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'rewarm:x:65532:' >> /etc/group \
 && mkdir -p /var/lib/rewarm && chown 65532:65532 /var/lib/rewarm \
 && python3 -m venv --without-pip /opt/rewarm
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/rewarm \
    XDG_CACHE_HOME=/var/lib/rewarm/.cache \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
WORKDIR /var/lib/rewarm

FROM base AS code
COPY requirements/build.txt /tmp/requirements/
RUN --mount=type=bind,source=requirements,target=/requirements \
    if [ -d /requirements/wheels ]; then from="--no-index --find-links /requirements/wheels"; else from=""; fi; \
    python3 -m pip --python /opt/rewarm/bin/python install --no-cache-dir --no-deps --require-hashes $from \
    -r /tmp/requirements/build.txt
COPY pyproject.toml README.md LICENSE /source/
COPY api /source/api
COPY trainer /source/trainer
COPY operator /source/operator
COPY cli /source/cli
RUN python3 -m pip --python /opt/rewarm/bin/python wheel --no-cache-dir --no-deps --no-build-isolation \
    --wheel-dir /wheels /source

FROM base AS operator-dependencies
COPY requirements/operator.txt /tmp/requirements/
RUN --mount=type=bind,source=requirements,target=/requirements \
    if [ -d /requirements/wheels ]; then from="--no-index --find-links /requirements/wheels"; else from=""; fi; \
    python3 -m pip --python /opt/rewarm/bin/python install --no-cache-dir --no-deps --require-hashes $from \
    -r /tmp/requirements/operator.txt

FROM operator-dependencies AS operator
# Copied, not mounted: buildah's cache does not see a change in what is mounted from another stage.
COPY --from=code /wheels /wheels
RUN python3 -m pip --python /opt/rewarm/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rewarm operator" \
      org.opencontainers.image.description="Continual pretraining on Kubernetes: decides what should run next" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/rewarm/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
EXPOSE 8080 8443 9401
ENTRYPOINT ["python", "-m", "rewarm_operator"]

FROM base AS trainer-dependencies
# torch.compile builds its kernels' launchers with a C compiler. Empty: none, and nothing is compiled.
ARG COMPILER="gcc libc6-dev"
RUN if [ -n "${COMPILER}" ]; then \
      apt-get update && apt-get install -y --no-install-recommends ${COMPILER} && rm -rf /var/lib/apt/lists/*; \
    fi
COPY requirements/trainer.txt /tmp/requirements/
RUN --mount=type=bind,source=requirements,target=/requirements \
    if [ -d /requirements/wheels ]; then from="--no-index --find-links /requirements/wheels"; else from=""; fi; \
    python3 -m pip --python /opt/rewarm/bin/python install --no-cache-dir --no-deps --require-hashes $from \
    -r /tmp/requirements/trainer.txt
ENV HF_HOME=/var/lib/rewarm/hugging-face \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/rewarm/inductor \
    TRITON_CACHE_DIR=/var/lib/rewarm/triton \
    MPLCONFIGDIR=/var/lib/rewarm/matplotlib

FROM trainer-dependencies AS trainer
# Copied, not mounted: buildah's cache does not see a change in what is mounted from another stage.
COPY --from=code /wheels /wheels
RUN python3 -m pip --python /opt/rewarm/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rewarm trainer" \
      org.opencontainers.image.description="Continual pretraining: prepares, trains, judges and reports one run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/rewarm/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
EXPOSE 9400 29500
ENTRYPOINT ["python", "-m", "rewarm_trainer.pod"]
CMD ["train"]
