"""What every rpc passes: who may call, what is refused, how failures travel, how it drains."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from bursar.v1 import identity_pb2 as pb
from bursar_server.credentials import new_credential
from bursar_server.errors import BursarError, invalid
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.server import (
    MOST_BYTES_OF_A_REQUEST,
    GrpcServer,
    Transport,
)
from tests.postgres.refusals import refusal_of, refused

# An authority made for these tests alone (its own key was thrown away), with a certificate of a
# server on 127.0.0.1 and one of a client; all are valid for a hundred years.
CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"
SERVICE = "bursar.v1.TestService"
KEY = new_credential("ba")
AUTHORIZED = (("authorization", f"Bearer {KEY.secret}"),)
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def behave(team: pb.Team) -> pb.Team:
    """What all the rpcs below do with a message."""
    if team.name == "refuse":
        raise invalid("team.name", team.name, "another")
    if team.name == "break":
        raise RuntimeError("the secret of the house")
    return team


class Behaviours:
    """One rpc of each kind, streams in both styles that grpc.aio knows."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def unary(self, request: pb.Team, context: Any) -> pb.Team:
        if request.name == "wait":
            self.entered.set()
            await self.release.wait()
        return behave(request)

    async def answers(self, request: pb.Team, context: Any) -> AsyncIterator[pb.Team]:
        yield pb.Team(name="first")
        yield behave(request)

    async def gather(self, requests: AsyncIterator[pb.Team], context: Any) -> pb.Team:
        return behave([team async for team in requests][-1])

    async def converse(
        self, requests: AsyncIterator[pb.Team], context: Any
    ) -> AsyncIterator[pb.Team]:
        async for team in requests:
            yield behave(team)

    async def converse_by_writing(self, requests: AsyncIterator[pb.Team], context: Any) -> None:
        async for team in requests:
            await context.write(behave(team))

    def handler(self) -> Any:
        kinds: dict[str, tuple[Any, Any]] = {
            "Unary": (grpc.unary_unary_rpc_method_handler, self.unary),
            "Answers": (grpc.unary_stream_rpc_method_handler, self.answers),
            "Gather": (grpc.stream_unary_rpc_method_handler, self.gather),
            "Converse": (grpc.stream_stream_rpc_method_handler, self.converse),
            "Write": (grpc.stream_stream_rpc_method_handler, self.converse_by_writing),
        }
        methods: dict[str, Any] = {
            name: make(behaviour, pb.Team.FromString, pb.Team.SerializeToString)
            for name, (make, behaviour) in kinds.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


@pytest.fixture
def behaviours() -> Behaviours:
    return Behaviours()


@pytest.fixture
async def server(behaviours: Behaviours) -> AsyncIterator[GrpcServer]:
    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((behaviours.handler(),))

    server = GrpcServer(
        Transport("127.0.0.1:0"),
        AdminKeys([new_credential("ba").hash, KEY.hash]),
        [(SERVICE, register)],
    )
    await server.start()
    yield server
    await server.drain(None)


@pytest.fixture
async def channel(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def raw(data: bytes) -> bytes:
    return data


def unary(channel: grpc.aio.Channel, serialize: Any = pb.Team.SerializeToString) -> Any:
    return channel.unary_unary(f"/{SERVICE}/Unary", serialize, pb.Team.FromString)


async def call(
    channel: grpc.aio.Channel,
    kind: str,
    name: str,
    metadata: Any = AUTHORIZED,
    *,
    silent: bool = False,
) -> list[str]:
    """The names that an rpc of this kind answers to one message called `name`.

    `silent` streams send nothing: a message that meets the end of its rpc hides, in the client of
    grpc.aio, what the server ended it with.
    """
    codecs = (pb.Team.SerializeToString, pb.Team.FromString)
    path = f"/{SERVICE}/{kind}"
    team = pb.Team(name=name)

    async def messages() -> AsyncIterator[pb.Team]:
        if silent:
            await asyncio.Event().wait()
        yield team

    if kind == "Unary":
        return [(await channel.unary_unary(path, *codecs)(team, metadata=metadata)).name]
    if kind == "Gather":
        return [(await channel.stream_unary(path, *codecs)(messages(), metadata=metadata)).name]
    stream: Any
    if kind == "Answers":
        stream = channel.unary_stream(path, *codecs)(team, metadata=metadata)
    else:
        stream = channel.stream_stream(path, *codecs)(messages(), metadata=metadata)
    return [answer.name async for answer in stream]


KINDS = ("Unary", "Answers", "Gather", "Converse", "Write")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_sound_call_of_any_kind_passes(channel: grpc.aio.Channel, kind: str) -> None:
    answers = await call(channel, kind, "search")
    assert answers[-1] == "search"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_of_any_kind_tells_the_field(channel: grpc.aio.Channel, kind: str) -> None:
    refusal = await refused(call(channel, kind, "refuse"))
    assert (refusal.code, refusal.reason) == (INVALID, "FIELD_INVALID")
    assert refusal.fields == ["team.name"]
    assert refusal.message == "team.name: 'refuse' is not accepted, expected another"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_of_any_kind_tells_nothing_but_where_to_look(
    channel: grpc.aio.Channel, kind: str
) -> None:
    with capture_logs() as lines:
        refusal = await refused(call(channel, kind, "break"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in refusal.message
    (line,) = [line for line in lines if line["event"] == "rpc_failed"]
    assert line["log_id"] == refusal.metadata["log_id"]
    assert refusal.metadata["log_id"] in refusal.message
    assert line["exc_info"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("authorization", "reason", "said"),
    [
        ([], "ADMIN_KEY_MISSING", "none"),
        (["Bearer "], "ADMIN_KEY_MISSING", "Bearer ba-"),
        (["Basic YTpi"], "ADMIN_KEY_MISSING", "Bearer ba-"),
        ([KEY.secret], "ADMIN_KEY_MISSING", "Bearer ba-"),
        ([f"Bearer {KEY.secret}", "Bearer x"], "ADMIN_KEY_MISSING", "2 of them"),
        ([f"Bearer {KEY.secret}x"], "ADMIN_KEY_UNKNOWN", "not the one"),
        ([f"Bearer {KEY.secret[:-1]}"], "ADMIN_KEY_UNKNOWN", "not the one"),
        (["Bearer bk-123"], "ADMIN_KEY_WRONG_KIND", "the key of an app"),
        (["Bearer bs-123"], "ADMIN_KEY_WRONG_KIND", "the credential of a sidecar"),
    ],
)
async def test_nobody_calls_without_the_admin_key(
    channel: grpc.aio.Channel, kind: str, authorization: list[str], reason: str, said: str
) -> None:
    metadata = [("authorization", value) for value in authorization]
    refusal = await refused(call(channel, kind, "search", metadata, silent=True))
    assert (refusal.code, refusal.reason) == (UNAUTHENTICATED, reason)
    assert said in refusal.message
    assert KEY.secret not in refusal.message


async def test_the_scheme_is_read_in_any_case(channel: grpc.aio.Channel) -> None:
    metadata = [("authorization", f"bearer  {KEY.secret}")]
    assert await call(channel, "Unary", "search", metadata) == ["search"]


async def test_an_unknown_rpc_is_unimplemented(channel: grpc.aio.Channel) -> None:
    missing = channel.unary_unary(f"/{SERVICE}/Missing", raw, raw)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await missing(b"", metadata=AUTHORIZED)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unreadable_bytes_are_the_senders_fault(channel: grpc.aio.Channel) -> None:
    refusal = await refused(unary(channel, raw)(b"\xff\xff\xff", metadata=AUTHORIZED))
    assert (refusal.code, refusal.reason) == (INVALID, "REQUEST_MALFORMED")
    stream = channel.stream_stream(f"/{SERVICE}/Converse", raw, pb.Team.FromString)
    conversation = stream(iter([b"\xff\xff\xff"]), metadata=AUTHORIZED)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await conversation.read()
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (INVALID, "REQUEST_MALFORMED")


async def test_an_unreadable_request_of_a_stranger_is_unauthenticated(
    channel: grpc.aio.Channel,
) -> None:
    assert (await refused(unary(channel, raw)(b"\xff\xff\xff"))).code is UNAUTHENTICATED


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"\x98\x06\x01", "field 99"),
        # create_time (6) with a field 99 of its own.
        (b"\x32\x03\x98\x06\x01", "create_time.field 99"),
    ],
)
async def test_a_field_we_do_not_know_is_refused(
    channel: grpc.aio.Channel, data: bytes, path: str
) -> None:
    refusal = await refused(unary(channel, raw)(data, metadata=AUTHORIZED))
    assert (refusal.code, refusal.reason, refusal.fields) == (INVALID, "FIELD_UNKNOWN", [path])


async def test_an_oversized_request_is_refused(channel: grpc.aio.Channel) -> None:
    team = pb.Team(display_name="x" * MOST_BYTES_OF_A_REQUEST)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel)(team, metadata=AUTHORIZED)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_and_reflection_are_open(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="bursar.v1.Nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = [one async for one in reflection.ServerReflectionInfo(iter([request]))]
    listed = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= listed


async def test_a_drain_lets_calls_end_and_takes_no_new_ones(
    server: GrpcServer, channel: grpc.aio.Channel, behaviours: Behaviours
) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    waiting = asyncio.ensure_future(unary(channel)(pb.Team(name="wait"), metadata=AUTHORIZED))
    await behaviours.entered.wait()
    draining = asyncio.create_task(server.drain(30.0))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not server.serving
    async with grpc.aio.insecure_channel(server.address) as late:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(late)(pb.Team(), metadata=AUTHORIZED)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    watch.cancel()
    behaviours.release.set()
    assert (await waiting).name == "wait"
    async with asyncio.timeout(20):
        await draining


async def test_a_drain_ends_at_its_deadline(
    server: GrpcServer, channel: grpc.aio.Channel, behaviours: Behaviours
) -> None:
    waiting = asyncio.ensure_future(unary(channel)(pb.Team(name="wait"), metadata=AUTHORIZED))
    await behaviours.entered.wait()
    async with asyncio.timeout(20):
        await server.drain(0.0)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await waiting


async def test_a_port_in_use_is_refused(server: GrpcServer) -> None:
    second = GrpcServer(Transport(server.address), AdminKeys([]), [])
    with pytest.raises(BursarError, match=r"can't listen on .* is it in use\?"):
        await second.start()


async def test_a_unix_socket_is_served(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "grpc"
    server = GrpcServer(Transport(f"unix:{path}"), AdminKeys([]), [])
    await server.start()
    assert server.address == f"unix:{path}"
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.drain(None)


def read(name: str) -> bytes:
    return (CERTIFICATES / name).read_bytes()


async def health_of(address: str, credentials: grpc.ChannelCredentials) -> int:
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    return int(answer.status)


async def test_certificates_are_presented_and_asked_for() -> None:
    transport = Transport(
        "127.0.0.1:0",
        CERTIFICATES / "server.pem",
        CERTIFICATES / "server.key.pem",
        CERTIFICATES / "authority.pem",
    )
    server = GrpcServer(transport, AdminKeys([]), [])
    await server.start()
    known = grpc.ssl_channel_credentials(
        read("authority.pem"), read("client.key.pem"), read("client.pem")
    )
    assert await health_of(server.address, known) == health_pb2.HealthCheckResponse.SERVING
    for stranger in (
        grpc.ssl_channel_credentials(read("authority.pem")),
        grpc.ssl_channel_credentials(
            read("client.pem"), read("client.key.pem"), read("client.pem")
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(server.address, stranger)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.drain(None)


async def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    server = GrpcServer(Transport("127.0.0.1:0", missing, missing), AdminKeys([]), [])
    with pytest.raises(BursarError, match=r"can't read .*missing\.pem: No such file"):
        await server.start()
