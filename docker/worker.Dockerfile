# GPU workers and the io worker of a node. torch comes from the package index with its own CUDA libraries; the
# host provides the driver through the NVIDIA container toolkit.
# Build from the repository's root:  docker build -f docker/worker.Dockerfile -t wanworks-worker .

FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/torch.txt requirements/runtime.txt requirements/worker.txt requirements/
RUN python3 -m venv /opt/wanworks
RUN /opt/wanworks/bin/pip install --no-cache-dir -r requirements/torch.txt
RUN /opt/wanworks/bin/pip install --no-cache-dir -r requirements/worker.txt
COPY pyproject.toml README.md ./
COPY api api
COPY wanworks wanworks
COPY scheduler scheduler
COPY shared shared
COPY workers workers
RUN /opt/wanworks/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
RUN cp -r api scheduler shared workers "$(/opt/wanworks/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
# A volume takes its owner from these folders when it is first used.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/wanworks wanworks \
    && mkdir /srv/store /srv/models \
    && chown wanworks:wanworks /srv/store /srv/models
COPY --from=build /opt/wanworks /opt/wanworks
ENV PATH=/opt/wanworks/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WANWORKS_HOME=/var/lib/wanworks \
    WANWORKS_STORE_PATH=/srv/store \
    WANWORKS_MODELS_PATH=/srv/models
USER 10001
WORKDIR /var/lib/wanworks
CMD ["wanworks", "worker"]
