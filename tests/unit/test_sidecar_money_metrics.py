"""What a sidecar shows of its money when it is scraped."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from bursar_sidecar.money_metrics import MoneyMetrics
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import KEY, Counter, serving


def metrics_of(counter: Counter) -> CollectorRegistry:
    registry = CollectorRegistry()
    MoneyMetrics(
        counter.book, counter.journal, counter.session, counter.cashier, counter.clock
    ).register(registry)
    return registry


async def test_money_is_shown_by_organization(tmp_path: Path) -> None:
    plane = FakeControlPlane()
    plane.add_key(KEY, 7)
    plane.add_budget(1, 1_000)
    plane.extra_nanos = 300
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        registry = metrics_of(counter)
        assert registry.get_sample_value("bursar_sidecar_admitting") == 0
        running = await counter.cashier.reserve(await counter.call(100))

        def amount(name: str) -> float | None:
            labels = {"organization": "organizations/acme", "currency": "USD"}
            return registry.get_sample_value(f"bursar_sidecar_{name}_nanos", labels)

        assert (amount("free"), amount("reserved"), amount("overdrawn")) == (300, 100, 0)
        assert registry.get_sample_value("bursar_sidecar_connected") == 1
        assert registry.get_sample_value("bursar_sidecar_admitting") == 1
        assert registry.get_sample_value("bursar_sidecar_journal_open_records") == 1
        counter.cashier.settle(running, counter.outcome(450))
        assert (amount("free"), amount("reserved"), amount("overdrawn")) == (0, 0, 50)
        assert registry.get_sample_value("bursar_sidecar_overruns_total") == 1
        assert registry.get_sample_value("bursar_sidecar_journal_open_records") == 0
