# syntax=docker/dockerfile:1
# The command line in a container, for amd64 and arm64.
#   docker build --target cpu  -t backpropagate:cpu .
#   docker build --target cuda -t backpropagate:cuda .     (the driver comes from the host, through NVIDIA's container toolkit)
#   docker run --rm -v "$PWD:/work" backpropagate:cpu train --data my_data.jsonl --model smollm2-135m
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
WORKDIR /source
COPY . .
RUN uv build --all-packages --wheel --quiet --out-dir /wheels \
    && uv venv --no-project /opt/backpropagate

FROM build AS cpu-environment
RUN uv pip install --no-cache --python /opt/backpropagate --torch-backend cpu --find-links /wheels "backpropagate[ui]"

FROM build AS cuda-environment
RUN uv pip install --no-cache --python /opt/backpropagate --torch-backend cu128 --find-links /wheels "backpropagate[ui]"

FROM python:${PYTHON}-slim-bookworm AS base
# llama.cpp and torch count on the system's OpenMP.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 backprop \
    && mkdir /work /home/backprop/.backpropagate \
    && chown backprop /work /home/backprop/.backpropagate
# Models that are downloaded lie in the same volume as the list of runs, so that both outlive the container.
ENV PATH=/opt/backpropagate/bin:$PATH \
    BACKPROPAGATE_HOME=/home/backprop/.backpropagate \
    HF_HOME=/home/backprop/.backpropagate/hub \
    HF_HUB_DISABLE_TELEMETRY=1
USER backprop
WORKDIR /work
VOLUME /home/backprop/.backpropagate
HEALTHCHECK --interval=60s --timeout=30s CMD ["backprop", "--version"]
ENTRYPOINT ["backprop"]
CMD ["--help"]

FROM base AS cpu
COPY --from=cpu-environment /opt/backpropagate /opt/backpropagate

FROM base AS cuda
COPY --from=cuda-environment /opt/backpropagate /opt/backpropagate
