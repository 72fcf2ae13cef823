# The sidecar: docker build -f deploy/docker/sidecar.Dockerfile -t bursar-sidecar .
#
# What is installed is what sidecar.lock says, each file checked against its hash. The last stage has
# no pip, no compiler and no shell script of ours; it runs as nobody in particular and writes only to
# /var/lib/bursar (the journal: give it a volume) and /run/bursar (unix sockets).

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY deploy/docker/build.lock deploy/docker/sidecar.lock deploy/docker/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: --no-deps -r deploy/docker/build.lock \
    && python -m venv /opt/bursar \
    && /opt/bursar/bin/pip install --require-hashes --only-binary :all: --no-deps -r deploy/docker/sidecar.lock
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY clients/cli clients/cli
COPY server server
COPY sidecar sidecar
RUN /opt/build/bin/hatchling build -t wheel -d /wheels \
    && /opt/bursar/bin/pip install --no-deps --no-index /wheels/*.whl \
    && /opt/bursar/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 bursar \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin bursar \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/bursar \
    && install --directory --owner 10001 --group 10001 --mode 0755 /run/bursar
COPY --from=build /opt/bursar /opt/bursar
ENV PATH=/opt/bursar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    BURSAR_DATA_DIR=/var/lib/bursar \
    BURSAR_SIDECAR_HTTP_ADDRESS=0.0.0.0:7070 \
    BURSAR_SIDECAR_ADMIN_ADDRESS=0.0.0.0:7072
USER 10001:10001
VOLUME ["/var/lib/bursar"]
EXPOSE 7070 7072
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["/opt/bursar/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7072/healthz', timeout=2)"]
ENTRYPOINT ["/opt/bursar/bin/python", "-m", "bursar_sidecar"]
