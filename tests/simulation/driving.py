"""How the real programs are run here: coroutines without an event loop, modules on stand-ins.

Nothing in a simulated process ever waits for another one inside a step, so a coroutine is driven
to its end at once; where production would pause and try again, it tries again at once.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from bursar_server.allowances import (
    armings,
    healing,
    passing,
    policy,
    service,
    tick,
    waiting,
    windows,
    writer,
)
from bursar_server.prices import import_store
from bursar_sidecar import journal, journal_kept
from tests.simulation import arming_store, database, disk, forgotten, stores
from tests.simulation.coverage import saw

T = TypeVar("T")


@types.coroutine
def _pause(_seconds: float) -> Generator[None, None, None]:
    yield


class _Asyncio(types.SimpleNamespace):
    """asyncio, with pauses that `drive` goes on from at once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result


class MemorySync(journal._Sync):
    """Syncs when the simulation says so, not in a thread."""

    def follow(self, fd: int, old: int) -> None:
        if old >= 0:
            saw("a journal went on in a new segment")
        super().follow(fd, old)

    def start(self, directories: list[Any]) -> None:
        self._directories = directories

    def ask(self) -> None:
        self._asked = True

    def stop(self) -> None:
        self._once()

    def run(self) -> None:
        """What the thread does a few milliseconds after a write."""
        self._asked = False
        self._once()

    def _prune(self) -> None:
        """Acknowledged segments are kept."""


async def _is_unmarked(_: Any) -> bool:
    """Nobody reads here how far a change has come, so nothing is to be written down of it."""
    return False


def _stand_ins() -> list[tuple[Any, str, Any]]:
    paused = _Asyncio(sleep=_pause)
    return [
        (tick, "store", stores.STORE),
        (waiting, "store", stores.STORE),
        (tick, "posting", stores.LEDGER),
        (passing, "store", stores.STORE),
        (armings, "store", arming_store.ARMING_STORE),
        (healing, "store", stores.STORE),
        (healing, "restoring", forgotten.RESTORING),
        (tick, "restoring", forgotten.RESTORING),
        (writer, "restoring", forgotten.RESTORING),
        (journal_kept, "segments_of", disk.kept),
        (windows, "store", stores.STORE),
        (windows, "posting", stores.LEDGER),
        (windows, "raises", stores.RAISES),
        (tick, "raises", stores.RAISES),
        (windows, "budgets_by_ids", stores.budgets_by_ids),
        (writer, "store", stores.STORE),
        (writer, "transaction", database.transaction),
        (writer, "asyncio", paused),
        (service, "store", stores.STORE),
        (service, "transaction", database.transaction),
        (service, "organization_by_id", stores.organization_by_id),
        (policy, "transaction", database.transaction),
        (policy, "overlay", stores.overlay),
        (import_store, "imported_list", stores.imported_list),
        (policy, "contracts_to_tell", stores.contracts_to_tell),
        (policy, "store", stores.STORE),
        (policy, "is_unmarked", _is_unmarked),
        (policy, "budgets_by_scopes", stores.budgets_by_scopes),
        (policy, "budgets_by_ids", stores.budgets_by_ids),
        (policy, "keys_by_secret_hashes", stores.keys_by_secret_hashes),
        (journal, "os", disk.MemoryOs()),
        (journal, "_lock", disk.lock),
        (journal, "segments_in", disk.segments),
        (journal, "last_number_in", disk.last_number),
        (journal, "sync_directory", lambda path: None),
        (journal, "_Sync", MemorySync),
    ]


@contextmanager
def in_memory() -> Iterator[None]:
    """The programs run on memory inside; outside they are as they were."""
    stand_ins = _stand_ins()
    before = [getattr(module, name) for module, name, _ in stand_ins]
    logging = structlog.get_config()
    for module, name, stand_in in stand_ins:
        setattr(module, name, stand_in)
    structlog.configure(
        processors=[_drop], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**logging)
        for (module, name, _), value in zip(stand_ins, before, strict=True):
            setattr(module, name, value)


def _drop(_logger: object, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent
