"""Envoy's access log service: the light tier's evidence as it comes, and where it is also tailed
from a file, from there.

`envoy.service.accesslog.v3`. An Envoy whose stream is broken drops what it had to log and counts no
loss, so that this alone proves nothing of calls that did not come (docs/envoy-light.md).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
from envoy.service.accesslog.v3 import als_pb2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bursar_sidecar.envoy.earlier_calls import EarlierCalls
from bursar_sidecar.envoy.log_entries import LogFault, of_grpc, of_line
from bursar_sidecar.envoy.log_tail import LogTail
from bursar_sidecar.envoy.logged_calls import LoggedCalls, Source
from bursar_sidecar.envoy.parts import Parts, Service

NAME: Final = "envoy.service.accesslog.v3.AccessLogService"
YIELD_AFTER: Final = 64
"""Entries that are settled without letting others on: a message may hold thousands."""
LOOK_EVERY_S: Final = 0.5
"""How often the file is looked at. Money that a call did not use is lent out again that much
later."""
PLACE_FILE: Final = "envoy-log.json"
"""In the data directory: how far the file was read."""


def service(parts: Parts) -> Service:
    """The service over a process's parts."""
    return AccessLogs(parts)


class AccessLogs:
    """Takes streams of entries."""

    name = NAME

    def __init__(self, parts: Parts) -> None:
        self.logged = LoggedCalls(parts.held, _earlier(parts), parts.clock, parts.registry)
        self.readiness = parts.proxy.readiness
        """Why no call can be served now; "" when all is well."""
        self._begun = False
        self._tail: LogTail | None = None
        if parts.settings.envoy_access_log:
            place = Path(parts.settings.data_dir) / PLACE_FILE
            self._tail = LogTail(Path(parts.settings.envoy_access_log), place, parts.clock)
            parts.registry.register(_TailMetrics(self._tail))

    def methods(self) -> Mapping[str, Any]:
        """`StreamAccessLogs` alone."""
        return {
            "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(
                self._stream,
                request_deserializer=als_pb2.StreamAccessLogsMessage.FromString,
                response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString,
            )
        }

    async def run(self) -> None:
        """Follow the file, where there is one."""
        if self._tail is None:
            return
        try:
            while True:
                if not await self.look():
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._tail.close()

    async def look(self) -> int:
        """Settle by the lines that are new, then remember how far. Returns how many there were."""
        tail = self._tail
        if tail is None:
            return 0
        if not self._begun:
            # What an earlier life left is adjusted over sessions that have to be open first.
            if self.readiness():
                return 0
            self._begun = True
        lines = await asyncio.to_thread(tail.read)
        for n, line in enumerate(lines):
            self._take(line, "file")
            if n % YIELD_AFTER == YIELD_AFTER - 1:
                await asyncio.sleep(0)
        if lines:
            # What was settled is in the journal before the file says that it was read.
            await asyncio.to_thread(tail.remember)
        return len(lines)

    async def _stream(self, messages: AsyncIterator[Any], context: Any) -> Any:
        async for message in messages:
            for n, entry in enumerate(message.http_logs.log_entry):
                self._take(entry, "grpc")
                if n % YIELD_AFTER == YIELD_AFTER - 1:
                    await asyncio.sleep(0)
        return als_pb2.StreamAccessLogsResponse()

    def _take(self, entry: Any, source: Source) -> None:
        try:
            self.logged.take(of_grpc(entry) if source == "grpc" else of_line(entry), source)
        except LogFault as fault:
            self.logged.unreadable(fault, source)
        except Exception as error:  # noqa: BLE001  # one entry must not stop those that follow
            self.logged.failed(error, source)


def _earlier(parts: Parts) -> EarlierCalls | None:
    if parts.evidence is None:
        return None
    return EarlierCalls(
        parts.recovered, parts.evidence, parts.desk, parts.clock, parts.proxy.servings
    )


class _TailMetrics:
    """A collector of what a tail does."""

    def __init__(self, tail: LogTail) -> None:
        self._tail = tail

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        yield GaugeMetricFamily(
            "bursar_sidecar_envoy_log_behind_bytes",
            "Bytes of Envoy's log file that were written and not read.",
            self._tail.behind(),
        )
        yield CounterMetricFamily(
            "bursar_sidecar_envoy_log_truncations",
            "How often the log file was found shorter, or to begin otherwise, than before.",
            self._tail.truncations,
        )
        yield CounterMetricFamily(
            "bursar_sidecar_envoy_log_overlong_lines",
            "Lines of the log file that were too long to read.",
            self._tail.overlong,
        )
