"""`python -m bursar_server` as an operator meets it: ready line, admin key, signals, refusals."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import grpc
import grpc.aio
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bursar.v1 import identity_pb2 as pb
from bursar.v1 import identity_pb2_grpc as rpc
from tests.fakes.postgres import PostgresForTests
from tests.postgres.refusals import refused

# Longer than a start takes on a machine that does five other things.
PATIENCE_S = 60.0
KEY = "ba-" + "k" * 43
SERVICES = ["Organization", "Team", "Project", "User", "Key", "Sidecar", "Budget", "Price"]
SERVICES += ["Allowance", "Ledger", "Report", "Alert"]


class Running(msgspec.Struct):
    """A server process, with the lines that it prints."""

    process: asyncio.subprocess.Process

    async def line(self) -> dict[str, str]:
        """The next line of the standard output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            said: dict[str, str] = json.loads(await self.process.stdout.readline())
        return said

    async def end(self) -> tuple[int, str]:
        """The exit code and the standard error, once it ends."""
        async with asyncio.timeout(PATIENCE_S):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()

    async def logged(self, event: str) -> None:
        """Wait for a log line."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while json.loads(await self.process.stderr.readline())["event"] != event:
                pass


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts servers on free ports; `start(BURSAR_X="y")` sets the environment."""
    started: list[asyncio.subprocess.Process] = []

    async def run(*options: str, **environment: str) -> Running:
        others = {k: v for k, v in os.environ.items() if not k.startswith("BURSAR_")}
        free = {"BURSAR_GRPC_ADDRESS": "127.0.0.1:0", "BURSAR_HTTP_ADDRESS": "127.0.0.1:0"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bursar_server",
            *options,
            env={**others, **free, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return Running(process)

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def organizations(address: str, admin_key: str) -> Any:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.OrganizationServiceStub(channel)
        request = pb.ListOrganizationsRequest()
        return await stub.ListOrganizations(
            request, metadata=(("authorization", f"Bearer {admin_key}"),)
        )


async def test_it_serves_and_makes_the_admin_key_once(start: Start, database_url: str) -> None:
    first = await start(BURSAR_DATABASE_URL=database_url)
    made = await first.line()
    assert made["event"] == "admin_key_created"
    assert made["admin_key"].startswith("ba-")
    assert len(made["admin_key"]) == 46
    serving = await first.line()
    assert serving["event"] == "serving"
    answer = await organizations(serving["grpc"], made["admin_key"])
    assert [one.name for one in answer.organizations] == ["organizations/platform"]
    status, body = await asyncio.to_thread(fetch, f"{serving['http']}/readyz")
    assert (status, json.loads(body)["status"]) == (200, "ready")
    assert (await asyncio.to_thread(fetch, f"{serving['http']}/healthz"))[0] == 200
    status, body = await asyncio.to_thread(fetch, f"{serving['http']}/metrics")
    assert b'bursar_rpcs_total{code="OK",method="/bursar.v1.OrganizationService' in body
    assert (await asyncio.to_thread(fetch, f"{serving['http']}/other"))[0] == 404
    first.process.send_signal(signal.SIGTERM)
    code, errors = await first.end()
    assert code == 0, errors
    assert made["admin_key"] not in errors

    second = await start(BURSAR_DATABASE_URL=database_url)
    serving = await second.line()
    assert serving["event"] == "serving"
    assert await organizations(serving["grpc"], made["admin_key"]) == answer

    other = await start(BURSAR_DATABASE_URL=database_url, BURSAR_ADMIN_KEY=KEY)
    serving = await other.line()
    assert await organizations(serving["grpc"], KEY) == answer
    refusal = await refused(organizations(serving["grpc"], made["admin_key"]))
    assert refusal.reason == "ADMIN_KEY_UNKNOWN"


async def test_every_service_of_the_contract_is_served(start: Start, database_url: str) -> None:
    server = await start(BURSAR_DATABASE_URL=database_url, BURSAR_ADMIN_KEY=KEY)
    address = (await server.line())["grpc"]
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in SERVICES:
            request = health_pb2.HealthCheckRequest(service=f"bursar.v1.{name}Service")
            answer = await health.Check(request)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_it_is_not_ready_without_its_database(
    start: Start, postgres_server: PostgresForTests, database_url: str
) -> None:
    server = await start(BURSAR_DATABASE_URL=database_url, BURSAR_ADMIN_KEY=KEY)
    serving = await server.line()
    name = database_url.rpartition("/")[2].partition("?")[0]
    connection = await asyncpg.connect(postgres_server.server.url)
    await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
    )
    status, body = await asyncio.to_thread(fetch, f"{serving['http']}/readyz")
    assert (status, json.loads(body)["checks"]["database reachable"]) == (503, False)
    refusal = await refused(organizations(serving["grpc"], KEY))
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "DATABASE_UNAVAILABLE"
    await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await connection.close()
    assert (await organizations(serving["grpc"], KEY)).organizations
    status, _ = await asyncio.to_thread(fetch, f"{serving['http']}/readyz")
    assert status == 200


async def test_a_second_signal_ends_it_at_once(start: Start, database_url: str) -> None:
    server = await start(
        BURSAR_DATABASE_URL=database_url, BURSAR_ADMIN_KEY=KEY, BURSAR_DRAIN_MS="600000"
    )
    address = (await server.line())["grpc"]
    async with grpc.aio.insecure_channel(address) as channel:
        # A watch never ends by itself, so the drain would take its ten minutes.
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        server.process.send_signal(signal.SIGINT)
        await server.logged("draining")
        server.process.send_signal(signal.SIGINT)
        code, _ = await server.end()
    assert code == 130


@pytest.mark.parametrize(
    ("environment", "options", "code", "said"),
    [
        ({}, (), 2, "database_url is not set"),
        ({"BURSAR_DATABASE_URL": "{url}"}, ("--pool-size", "no"), 2, "--pool-size: 'no' is not"),
        ({"BURSAR_DATABASE_URL": "{url}"}, ("--grpc-address", "0.0.0.0:0"), 2, "insecure"),
        (
            {
                "BURSAR_DATABASE_URL": "postgresql://u@/x?host=/nowhere",
                "BURSAR_DATABASE_WAIT_MS": "300",
            },
            (),
            3,
            "the database can't be reached",
        ),
        (
            {"BURSAR_DATABASE_URL": "postgresql://u@h:port/x"},
            (),
            1,
            "can't be reached by this URL: ",
        ),
        (
            {
                "BURSAR_DATABASE_URL": "{url}",
                "BURSAR_TLS_CERT": "no.pem",
                "BURSAR_TLS_KEY": "no.pem",
            },
            (),
            1,
            "can't read no.pem: No such file",
        ),
    ],
)
async def test_what_it_can_not_do_is_said_in_one_line(
    start: Start,
    database_url: str,
    environment: dict[str, str],
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    filled = {key: value.format(url=database_url) for key, value in environment.items()}
    server = await start(*options, **filled)
    found, errors = await server.end()
    assert found == code, errors
    # Before it come log lines, each one JSON object.
    *logs, last = errors.splitlines()
    assert last.startswith("bursar server: ")
    assert said in last
    assert all(json.loads(line) for line in logs)
    assert "Traceback" not in errors


@pytest.mark.parametrize("taken", ["grpc", "http"])
async def test_a_second_start_on_its_addresses_leaves_the_first_alone(
    start: Start, database_url: str, taken: str
) -> None:
    first = await start(BURSAR_DATABASE_URL=database_url, BURSAR_ADMIN_KEY=KEY)
    serving = await first.line()
    connection = await asyncpg.connect(database_url)
    owner = await connection.fetchrow("SELECT owner_epoch, owner FROM shards WHERE id = 0")
    address = serving[taken].removeprefix("http://")
    second = await start(
        BURSAR_DATABASE_URL=database_url,
        BURSAR_ADMIN_KEY=KEY,
        **{f"BURSAR_{taken.upper()}_ADDRESS": address},
    )
    code, errors = await second.end()
    assert code == 1
    assert f"bursar server: can't listen on {address}" in errors
    assert await connection.fetchrow("SELECT owner_epoch, owner FROM shards WHERE id = 0") == owner
    await connection.close()
    assert (await organizations(serving["grpc"], KEY)).organizations


async def test_help_and_settings_are_printed(start: Start, database_url: str) -> None:
    helping = await start("--help")
    text = (await helping.process.communicate())[0].decode()
    assert "--grpc-address" in text
    assert "BURSAR_DATABASE_URL" in text
    printing = await start(
        "--print-settings",
        BURSAR_DATABASE_URL="postgresql://a:hidden@h/x",
        BURSAR_ADMIN_KEY=KEY,
    )
    printed = json.loads((await printing.process.communicate())[0])
    assert printed["database_url"] == "postgresql://a:***@h/x"
    assert printed["admin_key"] == "***"
    assert (helping.process.returncode, printing.process.returncode) == (0, 0)
