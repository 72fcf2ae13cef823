"""A sidecar that says exactly what a test tells it, over a real stream."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import allowances_pb2, allowances_pb2_grpc, charges_pb2

ControlFrame = allowances_pb2.ControlFrame
DEADLINE_S = 20
"""For an answer that must come: a test that waits longer has failed."""


class ScriptedSidecar:
    """One stream; remembers all it was told."""

    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        # The stubs' types know only the form that is given an iterator of requests.
        self._stub: Any = allowances_pb2_grpc.AllowanceServiceStub(channel)
        self._secret = secret
        self._call: Any = None
        self._seq: dict[int, int] = {}
        self.frames: list[ControlFrame] = []
        self.epoch = 0
        self.platform_epoch = 0

    async def open(
        self,
        boot_id: str,
        prior: Iterable[allowances_pb2.PriorSession] = (),
        snapshot: str = "",
        proofs: Iterable[bytes] = (),
    ) -> "ScriptedSidecar":
        """Say Hello; returns when both sessions were welcomed and the policy was told."""
        self._call = self._stub.Session(metadata=(("authorization", f"Bearer {self._secret}"),))
        hello = allowances_pb2.Hello(
            boot_id=boot_id,
            build="scripted/1",
            prior_sessions=list(prior),
            price_snapshot_version=snapshot,
            session_proofs=list(proofs),
        )
        await self._call.write(allowances_pb2.SidecarFrame(hello=hello))
        for _ in range(2):
            frame = await self.until(lambda f: f.HasField("welcome"))
            welcome = frame.welcome
            self._seq[welcome.session_epoch] = welcome.last_seq
            if welcome.platform:
                self.platform_epoch = welcome.session_epoch
            else:
                self.epoch = welcome.session_epoch
        await self.until(lambda f: f.HasField("policy") and f.session_epoch == self.epoch)
        return self

    async def say(self, epoch: int | None = None, **fields: Any) -> int:
        """Send one frame with the next number; returns the number."""
        epoch = self.epoch if epoch is None else epoch
        seq = self._seq.get(epoch, 0) + 1
        self._seq[epoch] = seq
        await self.say_raw(allowances_pb2.SidecarFrame(session_epoch=epoch, seq=seq, **fields))
        return seq

    async def say_raw(self, frame: allowances_pb2.SidecarFrame) -> None:
        """Send a frame as it is."""
        assert self._call is not None
        await self._call.write(frame)

    async def until(self, wanted: Callable[[ControlFrame], bool]) -> ControlFrame:
        """The next frame that is wanted; those before it are kept in `frames`."""
        assert self._call is not None
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame = await self._call.read()
                if not isinstance(frame, ControlFrame):
                    raise AssertionError(f"the stream ended: {await self._call.details()}")
                self.frames.append(frame)
                if wanted(frame):
                    return frame

    async def applied(self, seq: int, epoch: int | None = None) -> ControlFrame:
        """The frame that says `seq` is committed."""
        wanted = self.epoch if epoch is None else epoch
        return await self.until(lambda f: f.session_epoch == wanted and f.applied_seq >= seq)

    async def need(
        self, need_id: int, *lines: tuple[int, int], wait_ms: int = 0, want: int = 0
    ) -> allowances_pb2.Verdict:
        """Ask for (budget, amount) lines and wait for the verdict."""
        await self.ask(need_id, *lines, wait_ms=wait_ms, want=want)
        return await self.verdict(need_id)

    async def ask(
        self, need_id: int, *lines: tuple[int, int], wait_ms: int = 0, want: int = 0
    ) -> None:
        """Ask for (budget, amount) lines."""
        await self.say(
            needs=[
                allowances_pb2.Need(
                    need_id=need_id,
                    wait_ms=wait_ms,
                    lines=[
                        allowances_pb2.NeedLine(
                            budget_id=budget, amount_nanos=amount, least_nanos=amount,
                            want_nanos=want,
                        )
                        for budget, amount in lines
                    ],
                )
            ]
        )  # fmt: skip

    async def verdict(self, need_id: int) -> allowances_pb2.Verdict:
        """The answer to a need."""
        frame = await self.until(lambda f: any(v.need_id == need_id for v in f.verdicts))
        return next(v for v in frame.verdicts if v.need_id == need_id)

    def allowance(self, budget_id: int) -> allowances_pb2.Allowance:
        """What was last said of a budget's allowance."""
        said = [a for f in self.frames for a in f.allowances if a.budget_id == budget_id]
        return said[-1]

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended."""
        assert self._call is not None
        async with asyncio.timeout(DEADLINE_S):
            try:
                while isinstance(frame := await self._call.read(), ControlFrame):
                    self.frames.append(frame)
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or ""
            return await self._call.code(), await self._call.details() or ""

    async def hang_up(self) -> None:
        """Break the stream, as a crash does."""
        assert self._call is not None
        self._call.cancel()


def settlement(
    epoch: int, n: int, windows: Iterable[int], cost: int, *, key_id: int = 0, **fields: Any
) -> charges_pb2.Settlement:
    """A settlement of a plain call."""
    values: dict[str, Any] = {
        "kind": charges_pb2.SETTLEMENT_KIND_FINAL,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "requested_model": "gpt-4o-mini",
        "price_version": "custom@1",
        "http_status": 200,
        "reserved_nanos": cost,
        "admit_time": Timestamp(seconds=1_790_000_000),
        "finish_time": Timestamp(seconds=1_790_000_001),
        "usage": charges_pb2.Usage(input_llm_tokens=10, output_llm_tokens=5),
    } | fields
    return charges_pb2.Settlement(
        session_epoch=epoch,
        n=n,
        budget_window_ids=sorted(windows),
        cost_nanos=cost,
        key_id=key_id,
        **values,
    )
