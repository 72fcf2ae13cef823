"""What is counted of the calls that Envoy carries."""

from collections.abc import Iterable
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bursar_sidecar.envoy.held_calls import HeldCalls

ENDS: Final = ("taken", "settled", "expired", "adjusted")


class HeldMetrics:
    """A collector for the registry of the sidecar's metrics, and a description for people."""

    def __init__(self, held: HeldCalls) -> None:
        self._held = held

    def described(self) -> dict[str, Any]:
        """For people."""
        held = self._held
        ended = {end: held.ended[end] for end in ENDS}
        return {"held": held.open_count, "taken": held.taken_count, "ended": ended}

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        held = GaugeMetricFamily(
            "bursar_sidecar_envoy_calls",
            "Calls that Envoy carries: held until they are taken or settled, or taken by their "
            "processing streams.",
            labels=("hand",),
        )
        held.add_metric(("held",), self._held.open_count)
        held.add_metric(("taken",), self._held.taken_count)
        yield held
        ended = CounterMetricFamily(
            "bursar_sidecar_envoy_calls_ended",
            "Calls that were held, by how that ended: taken by a processing stream, settled by "
            "evidence, expired, or adjusted by evidence that came after that.",
            labels=("end",),
        )
        for end in ENDS:
            ended.add_metric((end,), self._held.ended[end])
        yield ended
