"""Counts that every call adds to: whole cheap numbers, turned into metrics when they are scraped.

The client library's own take a lock and several calls for each step. These belong to one thread,
that of the loop, which is also the one that scrapes.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


class Level:
    """A number that rises and falls."""

    __slots__ = ("_name", "_text", "value")

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.value = 0

    def collect(self) -> Iterable[Metric]:
        """As it is now."""
        yield GaugeMetricFamily(self._name, self._text, self.value)


class Totals:
    """Totals by labels, whose values are few."""

    __slots__ = ("_labels", "_name", "_text", "by")

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self.by: dict[tuple[str, ...], int] = {}

    def add(self, key: tuple[str, ...], amount: int = 1) -> None:
        """Count so much more under these values of the labels."""
        self.by[key] = self.by.get(key, 0) + amount

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for key, total in self.by.items():
            family.add_metric(key, total)
        yield family


class Durations:
    """How many took how long, by one label or by none."""

    __slots__ = ("_bounds", "_by", "_label", "_name", "_text")

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], label: str = "", *values: str
    ) -> None:
        """`bounds` in seconds, ascending; `values` of the label are there from the start."""
        self._name = name
        self._text = text
        self._bounds = bounds
        self._label = label
        self._by = {value: Duration(bounds) for value in values or ("",)}

    def of(self, value: str = "") -> "Duration":
        """Those under one value of the label."""
        return self._by[value]

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        labels = (self._label,) if self._label else None
        family = HistogramMetricFamily(self._name, self._text, labels=labels)
        bounds = [*(f"{float(bound)}" for bound in self._bounds), "+Inf"]
        for value, one in self._by.items():
            buckets = list(zip(bounds, accumulate(one.counts), strict=True))
            family.add_metric((value,) if self._label else (), buckets, one.seconds)
        yield family


class Duration:
    """How many took how long."""

    __slots__ = ("_bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0
        """All together."""

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds
