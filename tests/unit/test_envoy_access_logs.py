"""Envoy's access log service over a real channel, and the file beside it: who settles what."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from bursar_sidecar.desk import Receipt
from bursar_sidecar.envoy import log_entries
from bursar_sidecar.envoy.access_logs import AccessLogs
from bursar_sidecar.envoy.held_calls import Word
from bursar_sidecar.envoy.parts import Parts
from tests.fakes.envoy_calls import EnvoyCalls
from tests.fakes.envoy_logs import CHAT_NANOS, grpc_entry, line
from tests.fakes.until import DEADLINE_S


class Logged(EnvoyCalls):
    """Held calls, and the service that settles them."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.file = directory / "access.log"
        super().__init__(
            envoy_access_log=str(self.file),
            data_dir=str(directory),
            **{"envoy_hold_s": 60} | settings,
        )
        self.registry = CollectorRegistry()
        parts = Parts(self.settings, self.proxy, self.desk, self.clock, self.held, self.registry)
        self.service = AccessLogs(parts)

    def log(self, *lines: bytes) -> None:
        with self.file.open("ab") as opened:
            opened.writelines(lines)

    def taken(self) -> dict[str, int]:
        return {
            f"{source} {result}": n for (source, result), n in self.service.logged.taken.items()
        }

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Any]:
        """A stub of the service, over a real channel."""
        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler(
            self.service.name, dict(self.service.methods())
        )
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield als_pb2_grpc.AccessLogServiceStub(channel)
        await server.stop(None)

    async def send(self, *messages: Sequence[Any]) -> None:
        """One stream with these entries, to its end."""
        async with self.stream() as stub:
            await stub.StreamAccessLogs(message(entries) for entries in messages)


def message(entries: Sequence[Any]) -> Any:
    made = als_pb2.StreamAccessLogsMessage()
    made.identifier.log_name = "bursar"
    made.http_logs.log_entry.extend(entries)
    return made


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


async def test_entries_over_grpc_settle_their_calls(logged: Logged) -> None:
    ids = [await logged.admit("light") for _ in range(200)]
    entries = [grpc_entry(charge_id) for charge_id in ids]
    await logged.send(entries[:150], entries[150:])
    assert [outcome.cost_nanos for outcome in logged.desk.outcomes] == [CHAT_NANOS] * 200
    assert logged.in_flight == (0, 0)
    assert logged.taken() == {"grpc settled": 200}


async def test_lines_of_the_file_settle_their_calls(logged: Logged) -> None:
    ids = [await logged.admit("light") for _ in range(200)]
    logged.log(*map(line, ids))
    assert await logged.service.look() == 200
    assert await logged.service.look() == 0
    assert [outcome.cost_nanos for outcome in logged.desk.outcomes] == [CHAT_NANOS] * 200
    assert logged.taken() == {"file settled": 200}


async def test_what_is_told_twice_settles_once(logged: Logged) -> None:
    charge_id = await logged.admit("light")
    await logged.send([grpc_entry(charge_id), grpc_entry(charge_id)])
    logged.log(line(charge_id, answer={}), line(charge_id, status=500))
    await logged.service.look()
    assert logged.desk.only_outcome.cost_nanos == CHAT_NANOS
    assert logged.taken() == {"grpc settled": 1, "grpc duplicate": 1, "file duplicate": 2}


async def test_the_file_tells_what_the_stream_missed(logged: Logged) -> None:
    ids = [await logged.admit("light") for _ in range(3)]
    await logged.send([grpc_entry(ids[0])])
    logged.log(*map(line, ids))
    await logged.service.look()
    assert len(logged.desk.outcomes) == 3
    assert logged.taken() == {"grpc settled": 1, "file duplicate": 1, "file settled": 2}


async def test_evidence_after_the_deadline_adjusts(logged: Logged) -> None:
    ids = [await logged.admit("light") for _ in range(4)]
    logged.clock.skip(60)
    assert logged.held.sweep() == 4
    refused = line(ids[1], status=429, answer={})
    unsent = line(ids[2], status=503, details="no", flags="UH", sent_bytes=0, answer={})
    logged.log(line(ids[0]), refused, unsent, line(ids[3], details="cut", flags="DC", answer={}))
    await logged.service.look()
    adjusted = logged.evidence.adjusted
    assert {name: outcome.cost_nanos for name, outcome in adjusted.items()} == {
        ids[0]: CHAT_NANOS,
        ids[1]: 0,
        ids[2]: 0,
    }
    assert "released" not in {outcome.kind for outcome in adjusted.values()}
    # What proves no more than was known leaves the call open to what does.
    logged.log(line(ids[3]))
    await logged.service.look()
    assert adjusted[ids[3]].cost_nanos == CHAT_NANOS
    assert logged.taken() == {"file adjusted": 4, "file duplicate": 1}


async def test_evidence_that_is_too_late_is_counted(logged: Logged) -> None:
    charge_id = await logged.admit("light")
    logged.clock.skip(60)
    logged.held.sweep()
    logged.evidence.taking = False
    logged.log(line(charge_id))
    await logged.service.look()
    assert logged.taken() == {"file too_late": 1}
    assert not logged.evidence.adjusted


async def test_a_call_that_nobody_knows_changes_nothing(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    charge_id = await logged.admit("light")
    await logged.send([grpc_entry(f"999-{n}") for n in range(1_000)])
    assert logged.taken() == {"grpc unknown": 1_000}
    assert not logged.desk.outcomes
    assert logged.held.held(charge_id) is not None
    assert capsys.readouterr().out.count("envoy_log_entry_of_no_use") <= 1


async def test_what_cannot_be_read_stops_nothing(logged: Logged) -> None:
    charge_id = await logged.admit("light")
    logged.log(b"{torn\n", b"\x00\x00\n", line("x"), line(None), line(charge_id))
    await logged.service.look()
    assert logged.taken() == {"file unreadable": 3, "file not_ours": 1, "file settled": 1}
    other = await logged.admit("light")
    await logged.send([grpc_entry("no id"), grpc_entry(other)])
    assert logged.taken()["grpc settled"] == 1
    assert logged.taken()["grpc unreadable"] == 1


async def test_a_fault_of_ours_stops_nothing(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = await logged.admit("light"), await logged.admit("light")

    def of_line(text: bytes) -> Any:
        if broken.encode() in text:
            raise RuntimeError("a fault")
        return log_entries.of_line(text)

    monkeypatch.setattr("bursar_sidecar.envoy.access_logs.of_line", of_line)
    logged.log(line(broken), line(whole))
    await logged.service.look()
    assert logged.taken() == {"file failed": 1, "file settled": 1}
    assert logged.held.held(broken) is not None
    logged.clock.skip(60)
    assert logged.held.sweep() == 1


async def test_a_stream_that_breaks_keeps_what_came(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled, settle = asyncio.Event(), logged.held.settle

    def watched(charge_id: str, word: Word) -> Receipt | None:
        settled.set()
        return settle(charge_id, word)

    monkeypatch.setattr(logged.held, "settle", watched)
    first = await logged.admit("light")
    async with logged.stream() as stub:
        call = stub.StreamAccessLogs()
        await call.write(message([grpc_entry(first)]))
        await asyncio.wait_for(settled.wait(), DEADLINE_S)
        call.cancel()
    second = await logged.admit("light")
    await logged.send([grpc_entry(second)])
    assert logged.held.held(second) is None


async def test_a_restart_of_the_follower_repeats_nothing(tmp_path: Path) -> None:
    logged = Logged(tmp_path)
    first, second = await logged.admit("light"), await logged.admit("light")
    logged.log(line(first))
    await logged.service.look()
    logged.log(line(second))
    again = AccessLogs(
        Parts(
            logged.settings,
            logged.proxy,
            logged.desk,
            logged.clock,
            logged.held,
            CollectorRegistry(),
        )
    )
    assert await again.look() == 1
    assert again.logged.taken == {("file", "settled"): 1}
    assert len(logged.desk.outcomes) == 2


async def test_the_file_waits_until_evidence_can_be_sent(logged: Logged) -> None:
    logged.log(line(await logged.admit("light")))
    logged.service.readiness = lambda: "the control plane has not been reached"
    assert await logged.service.look() == 0
    logged.service.readiness = str
    assert await logged.service.look() == 1
    # From then on sessions are there, whatever becomes of the connection.
    logged.service.readiness = lambda: "the control plane has been silent too long"
    logged.log(line(await logged.admit("light")))
    assert await logged.service.look() == 1


async def test_all_of_it_is_measured(logged: Logged) -> None:
    logged.log(line(await logged.admit("light")), line("9-9"), line(None), b"torn")
    await logged.service.look()
    shown = generate_latest(logged.registry).decode()
    for sample in (
        'envoy_log_entries_total{result="settled",source="file"} 1.0',
        'envoy_log_entries_total{result="unknown",source="file"} 1.0',
        'envoy_log_entries_total{result="settled",source="grpc"} 0.0',
        'envoy_logged_calls_total{proof="counted"} 1.0',
        "envoy_log_behind_bytes 4.0",
        'envoy_log_last_entry_seconds{source="file"}',
    ):
        assert f"bursar_sidecar_{sample}" in shown
