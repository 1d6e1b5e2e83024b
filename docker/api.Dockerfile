# The API, the dispatcher, beat, Flower and the command line. No torch.
# Build from the repository's root:  docker build -f docker/api.Dockerfile -t wanworks-api .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/runtime.txt requirements/
RUN python -m venv /opt/wanworks
RUN /opt/wanworks/bin/pip install --no-cache-dir -r requirements/runtime.txt
COPY pyproject.toml README.md ./
COPY api api
COPY wanworks wanworks
COPY scheduler scheduler
COPY shared shared
COPY workers workers
RUN /opt/wanworks/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
RUN cp -r api scheduler shared workers "$(/opt/wanworks/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM python:3.11-slim-bookworm
# A volume takes its owner from these folders when it is first used.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/wanworks wanworks \
    && mkdir /srv/store /srv/models /srv/flower \
    && chown wanworks:wanworks /srv/store /srv/models /srv/flower
COPY --from=build /opt/wanworks /opt/wanworks
ENV PATH=/opt/wanworks/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WANWORKS_HOME=/var/lib/wanworks \
    WANWORKS_STORE_PATH=/srv/store \
    WANWORKS_MODELS_PATH=/srv/models \
    WANWORKS_HOST=0.0.0.0
USER 10001
WORKDIR /var/lib/wanworks
EXPOSE 8000 5555
CMD ["wanworks", "web"]
