"""The `[[envoy_limits]]` as they hold now, with their keys; what both of Envoy's limit services
charge by, count and log."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from bursar_sidecar.credential_files import CredentialFile, CredentialFiles
from bursar_sidecar.desk import Refusal
from bursar_sidecar.envoy.descriptors import Bill
from bursar_sidecar.envoy.hit_charges import Charged, HitCharges
from bursar_sidecar.envoy.parts import Parts
from bursar_sidecar.envoy_limit_settings import EnvoyLimit
from bursar_sidecar.settings import Settings

log = structlog.get_logger("bursar.envoy")

NOBODY: Final = "none"
"""In metrics, where no limit is known."""


class LimitsInForce:
    """Of one process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        proxy = parts.proxy
        self._seen: Settings = proxy.servings.current.settings
        self.charges = HitCharges(
            self._seen, parts.desk, parts.clock, proxy.metrics, proxy.call_log
        )
        self.files = CredentialFiles(parts.clock.monotonic, self._seen.credential_check_s)
        self._keys: dict[str, str] = {}
        self._telling: set[asyncio.Task[Charged | None]] = set()
        self._hits = Counter(
            "bursar_sidecar_envoy_hits",
            "What Envoy's limit filters asked and told, by limit and outcome: charged, asked, "
            "told, owed, or why it was refused.",
            ("limit", "outcome"),
            registry=parts.registry,
        )
        owed = Gauge(
            "bursar_sidecar_envoy_hits_owed",
            "Payers and models whose usage was told and could not be posted so far.",
            registry=parts.registry,
        )
        owed.set_function(lambda: self.charges.owed_count)
        lost = Gauge(
            "bursar_sidecar_envoy_hits_lost",
            "Bills for usage that could not be charged.",
            registry=parts.registry,
        )
        lost.set_function(lambda: self.charges.lost_count)
        self._use(self._seen)

    # -- what holds ----------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The present ones."""
        current = self._parts.proxy.servings.current.settings
        if current is not self._seen:
            self._use(current)
        return current

    def now(self) -> tuple[Sequence[EnvoyLimit], Mapping[str, str]]:
        """The limits, and the keys of those that have one."""
        return self.settings.envoy_limits, self._keys

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self._parts.clock.wall_ns()

    def _use(self, settings: Settings) -> None:
        self._seen = settings
        self.charges.apply(settings)
        self.files.every_s = settings.credential_check_s
        self._keys = {one.name: one.api_key for one in settings.envoy_limits if one.api_key}
        self.files.watch(
            CredentialFile(
                f"envoy_limits.{one.name}", one.api_key_file, one.api_key, self._rekeying(one.name)
            )
            for one in settings.envoy_limits
            if one.api_key_file
        )

    def _rekeying(self, name: str) -> "_Rekeying":
        return _Rekeying(self._keys, name)

    async def run(self) -> None:
        """Look at files with keys, and pay what is owed, until cancelled."""
        files = asyncio.create_task(self.files.run(), name="envoy-limit-keys")
        try:
            await self.charges.run()
        finally:
            files.cancel()
            await asyncio.gather(files, *self._telling, return_exceptions=True)

    # -- what is charged -----------------------------------------------------------------------

    async def told(self, bill: Bill) -> Charged | None:
        """Charge what was used, also when whoever told it has left; None: it is owed, or lost."""
        task = asyncio.create_task(self._told(bill), name="envoy-hits")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return await asyncio.shield(task)

    async def _told(self, bill: Bill) -> Charged | None:
        try:
            charged = await self.charges.tell(bill)
        except Refusal as refusal:
            self.counted(bill, refusal.reason)
            return None
        self.counted(bill, "told" if charged is not None else "owed")
        return charged

    # -- what is counted -----------------------------------------------------------------------

    def counted(self, bill: Bill, outcome: str) -> None:
        """One bill."""
        self._hits.labels(bill.limit.name, outcome).inc()

    def refused(self, limit: EnvoyLimit, refusal: Refusal) -> None:
        """A request that may not go on."""
        self._hits.labels(limit.name, refusal.reason).inc()
        self._parts.proxy.call_log.refused(refusal.reason, None, refusal.model)

    def unreadable(self, refusal: Refusal) -> None:
        """One that no limit is for, or that can't be read."""
        self._hits.labels(NOBODY, refusal.reason).inc()
        self._parts.proxy.call_log.refused(refusal.reason)


_MADE: Final[WeakKeyDictionary[CollectorRegistry, LimitsInForce]] = WeakKeyDictionary()


def limits_of(parts: Parts) -> LimitsInForce:
    """The limits of a process; both services ask for them."""
    found = _MADE.get(parts.registry)
    if found is None:
        found = _MADE[parts.registry] = LimitsInForce(parts)
    return found


class _Rekeying:
    """Puts a key that rotated in the place of the last one."""

    def __init__(self, keys: dict[str, str], name: str) -> None:
        self._keys = keys
        self._name = name

    def __call__(self, key: str) -> None:
        self._keys[self._name] = key
