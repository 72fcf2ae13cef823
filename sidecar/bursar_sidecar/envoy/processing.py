"""The service `envoy.service.ext_proc.v3.ExternalProcessor`: one stream for each request.

    request's head, with a charge id of ours in its metadata --> the call is taken, and carried
                    without, or with one that nobody holds   --> refused, or passed unmetered, as
                                                                 `envoy_unreserved` says
    an answer's head first: Envoy answers by itself, before the request came here --> passed; a
                    reservation is given back where it is proven that nothing was sent

Owns: that a call which was taken comes to its end, whatever becomes of the stream, and that it is
Envoy that ends streams (see conversation.py).
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.attempt import AlreadySettled
from bursar_sidecar.desk import Refusal
from bursar_sidecar.dialects.registry import find, speaking
from bursar_sidecar.envoy import header_changes
from bursar_sidecar.envoy.carried_call import CarriedCall, Clocked
from bursar_sidecar.envoy.conversation import Conversation
from bursar_sidecar.envoy.envoys_word import word_of
from bursar_sidecar.envoy.held_calls import HeldCall
from bursar_sidecar.envoy.metadata import charge_id_of
from bursar_sidecar.envoy.parts import Parts
from bursar_sidecar.envoy.passing import pass_on
from bursar_sidecar.envoy.processing_metrics import ProcessingMetrics
from bursar_sidecar.http_messages import JSON_HEADERS, Request, error_body
from bursar_sidecar.refusals import render

log = structlog.get_logger("bursar.envoy")

SWEEP_EVERY_S: Final = 1.0
"""How late a time limit of a call may be noticed."""
TELL_EVERY_S: Final = 10.0
"""How often the log tells of requests that pass unmetered, however many there are."""
_DUPLEX: Final = modes.ProcessingMode.FULL_DUPLEX_STREAMED
Context = grpc.aio.ServicerContext[ext_proc.ProcessingRequest, ext_proc.ProcessingResponse]


class Processing:
    """All streams, and the calls that they carry."""

    name = "envoy.service.ext_proc.v3.ExternalProcessor"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.metrics = ProcessingMetrics(parts.registry)
        self._carried: dict[CarriedCall, asyncio.Task[None]] = {}
        self._unmetered = 0
        self._told_at = float("-inf")

    def methods(self) -> Mapping[str, Any]:
        """Its one method."""
        return {
            "Process": grpc.stream_stream_rpc_method_handler(
                self._process,
                request_deserializer=ext_proc.ProcessingRequest.FromString,
                response_serializer=ext_proc.ProcessingResponse.SerializeToString,
            )
        }

    async def run(self) -> None:
        """Enforce the time limits of calls, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.sweep()

    def sweep(self) -> None:
        """Enforce them as of now."""
        now = self._parts.clock.monotonic()
        for carried in list(self._carried):
            carried.sweep(now)

    async def _process(self, _: object, context: Context) -> None:
        self.metrics.streams.inc()
        try:
            await _Stream(self, self._parts, context).serve()
        finally:
            self.metrics.streams.dec()

    def passed(self) -> None:
        """A request went on that nothing is reserved for."""
        self.metrics.unreserved("passed")
        self._unmetered += 1
        now = self._parts.clock.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            log.warning("envoy_requests_unmetered", count=self._unmetered)
            self._unmetered, self._told_at = 0, now

    def carry(self, carried: CarriedCall, call: HeldCall, conversation: Conversation) -> None:
        """See a call to its end, whatever becomes of its stream."""
        task = asyncio.create_task(self._run(carried, call, conversation), name="envoy-call")
        self._carried[carried] = task

    async def _run(self, carried: CarriedCall, call: HeldCall, conversation: Conversation) -> None:
        charge_id = call.attempt.charge_id
        try:
            await carried.run()
        except AlreadySettled:
            if not call.over:  # else the sidecar stops, and has settled what was left
                log.exception("envoy_call_failed", charge_id=charge_id)
        except Exception:
            # The last line of defence: whatever went wrong, nothing flows on unmetered.
            log.exception("envoy_call_failed", charge_id=charge_id)
        finally:
            if not (carried.finished or carried.passes):
                body = error_body("internal_error", "The sidecar failed.", "server_error")
                conversation.immediate(500, JSON_HEADERS, body)
            del self._carried[carried]
            self._parts.held.over(call)


class _Stream:
    """One of them."""

    def __init__(self, service: Processing, parts: Parts, context: Context) -> None:
        self._service = service
        self._parts = parts
        self._context = context
        self._conversation = Conversation()
        self._carried: CarriedCall | None = None
        self._duplex_request = False
        self._may_read: asyncio.Event = asyncio.Event()
        self._may_read.set()

    async def serve(self) -> None:
        """Until Envoy ends it."""
        first = await self._read()
        if first is None:
            return
        conversation = self._conversation
        writing = asyncio.create_task(conversation.run(self._context), name="envoy-stream")
        writing.add_done_callback(self._written)
        try:
            self._begin(first)
            while (told := await self._read()) is not None:
                self._got(told)
        except Exception:
            log.exception("envoy_stream_failed")
            conversation.immediate(500, [], b"")
            while await self._read() is not None:
                pass  # Envoy has to end it: ours would let the answer flow
        finally:
            conversation.gone()
            if self._carried is not None and not self._carried.finished:
                self._carried.lost()

    async def _read(self) -> ext_proc.ProcessingRequest | None:
        await self._may_read.wait()
        told = await self._context.read()
        return told if isinstance(told, ext_proc.ProcessingRequest) else None

    def _flow(self, reading: bool) -> None:
        if reading:
            self._may_read.set()
        else:
            self._may_read.clear()

    def _written(self, writing: "asyncio.Task[None]") -> None:
        if writing.cancelled() or writing.exception() is None:
            return
        # The rpc is over, which the reader hears, too.
        log.debug("envoy_stream_unwritable", error=str(writing.exception()))
        self._conversation.gone()
        self._may_read.set()

    def _begin(self, first: ext_proc.ProcessingRequest) -> None:
        config = first.protocol_config
        self._duplex_request = config.request_body_mode == _DUPLEX
        charge_id = charge_id_of(first.metadata_context.filter_metadata)
        if first.WhichOneof("request") != "request_headers":
            self._give_back(charge_id, first)
            self._pass_on(first)
            return
        call = self._parts.held.take(charge_id) if charge_id else None
        if call is None:
            self._unreserved(first)
            return
        proxy = self._parts.proxy
        self._carried = CarriedCall(
            call,
            self._conversation,
            proxy.endings,
            self._service.metrics,
            Clocked(call.upstream.pool.limits, self._parts.clock.monotonic),
            self._flow,
            overrides=config.response_body_mode != _DUPLEX,
        )
        self._service.carry(self._carried, call, self._conversation)
        proxy.metrics.held_up(self._parts.clock.monotonic() - call.admitted.started)
        self._carried.let_go()

    def _got(self, told: ext_proc.ProcessingRequest) -> None:
        carried, kind = self._carried, told.WhichOneof("request")
        if carried is None or carried.passes or kind in ("request_body", "request_trailers"):
            self._pass_on(told)
        elif carried.finished:
            return  # cut: what was under way
        elif kind == "response_body":
            carried.got_body(told.response_body)
        elif kind == "response_headers":
            carried.got_head(told)
            if carried.passes:
                self._pass_on(told)
        elif kind == "response_trailers":
            carried.got_trailers(told.response_trailers)

    def _pass_on(self, told: ext_proc.ProcessingRequest) -> None:
        pass_on(self._conversation, told, duplex=self._duplex_request)

    def _give_back(self, charge_id: str, first: ext_proc.ProcessingRequest) -> None:
        """A filter between Check and here answered: the call never left."""
        told = first.response_headers
        headers = header_changes.read(told.headers)
        if not charge_id or not word_of(first.attributes, 0, headers).never_sent:
            return
        call = self._parts.held.take(charge_id)
        if call is not None:
            call.attempt.sent = False
            self._parts.held.over(call)

    def _unreserved(self, first: ext_proc.ProcessingRequest) -> None:
        """A request whose Check was not asked, or was asked elsewhere, or long ago."""
        proxy = self._parts.proxy
        if proxy.settings.envoy_unreserved == "pass":
            self._service.passed()
            self._pass_on(first)
            return
        self._service.metrics.unreserved("refused")
        headers = header_changes.read(first.request_headers.headers)
        told = dict(headers)
        request = Request(told.get(b":method", b""), told.get(b":path", b"/"), headers, b"")
        refusal = Refusal("not_reserved")
        proxy.call_log.refused(refusal.reason)
        proxy.metrics.refused(refusal.reason)
        found = find(request)
        dialect = speaking(request) if found is None else found.endpoint.dialect
        self._conversation.immediate(*render(refusal, dialect))


def service(parts: Parts) -> Processing:
    """Over these parts."""
    return Processing(parts)
