# The control plane and the command line: docker build -f deploy/docker/server.Dockerfile -t bursar-server .
#
# What is installed is what server.lock says, each file checked against its hash. It keeps nothing:
# the database is Postgres, elsewhere. `docker exec ... bursar key create` is the command line.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY deploy/docker/build.lock deploy/docker/server.lock deploy/docker/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: --no-deps -r deploy/docker/build.lock \
    && python -m venv /opt/bursar \
    && /opt/bursar/bin/pip install --require-hashes --only-binary :all: --no-deps -r deploy/docker/server.lock
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
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin bursar
COPY --from=build /opt/bursar /opt/bursar
ENV PATH=/opt/bursar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    BURSAR_GRPC_ADDRESS=0.0.0.0:7443 \
    BURSAR_HTTP_ADDRESS=0.0.0.0:7080
USER 10001:10001
EXPOSE 7443 7080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=40s \
    CMD ["/opt/bursar/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7080/healthz', timeout=2)"]
ENTRYPOINT ["/opt/bursar/bin/python", "-m", "bursar_server"]
