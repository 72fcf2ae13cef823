"""The scheduled fetch of a published price list, where an operator set an address; off otherwise.

Of several control planes one looks: whoever changes the row of the sync first. A list that can't be
read, is refused by the limits or can't be reached changes nothing, and is told by `bursar price
sync`, by metrics, by the log and, when it begins, by an event.
"""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from bursar.download import Download, DownloadError, download, shown_url
from bursar.pricing.lists import MAX_LIST_BYTES, ImportedList
from bursar_server.changes import ChangeFeed
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError
from bursar_server.prices import import_store, importing
from bursar_server.prices.import_rules import Limits
from bursar_server.prices.import_store import SyncRecord

log = structlog.get_logger(__name__)

SYNCS: Final = Counter(
    "bursar_price_syncs_total",
    "Looks at the published price list, by what came of it.",
    ["outcome"],
)
SYNC_FAILURES: Final = Gauge(
    "bursar_price_sync_failures", "Looks in a row that came to nothing; 0 while all is well."
)
SYNC_SUCCESS: Final = Gauge(
    "bursar_price_sync_success_seconds", "When the published list was last there, in Unix time."
)

DOWNLOAD_TIMEOUT_S: Final = 60.0
"""For the whole file: 3 MB in that time are slower than any line that serves a control plane."""
LONGEST_LOOK_S: Final = 180
"""A look that takes longer is taken for dead, and another process looks."""
BEAT_S: Final = 30.0
"""How often it is asked whether it is time: one row is read."""
RETRY_FIRST_S: Final = 60
"""After the first failure to reach the address; doubled with each, up to the interval."""
MOST_DOUBLINGS: Final = 12
MOST_CHARACTERS_OF_A_DETAIL: Final = 1_000

IMPORTED: Final = "imported"
UNCHANGED: Final = "unchanged"
NOT_MODIFIED: Final = "not modified"
UNREACHABLE: Final = "unreachable"
BAD_FILE: Final = "bad file"
REFUSED: Final = "refused"
_FAILED: Final = frozenset({UNREACHABLE, BAD_FILE, REFUSED})
_OUTCOMES: Final = {"PRICE_LIST_INVALID": BAD_FILE, "PRICE_CHANGE_REFUSED": REFUSED}

Fetch = Callable[[str, str], Download]
"""The file at an address, given the etag of the last one."""


class SyncSettings(msgspec.Struct, frozen=True):
    """What to fetch, and what to accept unasked."""

    url: str = ""
    """Empty: nothing is ever fetched."""
    interval_s: int = 86_400
    max_change_percent: int = 50

    @property
    def url_hash(self) -> str:
        """Says whether two addresses are the same, and nothing else about them."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    @property
    def shown_url(self) -> str:
        """The address without its secrets."""
        return shown_url(self.url) if self.url else ""


class Superseded(Exception):
    """Another process began a look while this one was under way."""


class _Look(NamedTuple):
    """One look that this process claimed."""

    claim: UUID
    etag: str
    failures: int
    """In a row, before this one."""
    last: str
    """What came of the one before."""


class PriceSync:
    """Keeps the platform's imported list as published."""

    def __init__(
        self,
        pool: Pool,
        feed: ChangeFeed,
        clock: Clock,
        settings: SyncSettings,
        fetch: Fetch | None = None,
    ) -> None:
        self.settings = settings
        self._pool = pool
        self._feed = feed
        self._clock = clock
        self._fetch = fetch or _fetch
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where an address is set."""
        if self.settings.url:
            log.info("price_sync_on", url=self.settings.shown_url, every_s=self.settings.interval_s)
            self._task = asyncio.create_task(self._run(), name="price-sync")

    async def stop(self) -> None:
        """End; a look that is under way is begun anew by somebody else."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def state(self) -> tuple[SyncRecord | None, str]:
        """What it did last, and the version of the imported list in force."""
        async with transaction(self._pool, read_only=True) as connection:
            record = await import_store.sync_state(connection, PLATFORM_ORGANIZATION_ID)
            listed = await import_store.imported_list(connection, PLATFORM_ORGANIZATION_ID)
        return record, listed.version if listed is not None else ""

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except BursarError as error:
                log.warning("price_sync_postponed", reason=error.reason)
            except Exception:
                # The next beat tries again; prices stay as they are.
                log.exception("price_sync_broke")
            await asyncio.sleep(min(BEAT_S, self.settings.interval_s))

    async def look(self) -> str | None:
        """Fetch the list and take it over, if it is time; returns what came of it, None: it is not.

        Raises BursarError when the database can't be reached.
        """
        look = await self._claim()
        if look is None:
            return None
        try:
            outcome, detail = await self._take(look)
        except Superseded:
            log.warning("price_sync_superseded", effect="another process looks")
            return None
        SYNCS.labels(outcome).inc()
        if outcome in _FAILED:
            SYNC_FAILURES.set(look.failures + 1)
            log.warning("price_sync_failed", outcome=outcome, detail=detail)
        else:
            SYNC_FAILURES.set(0)
            SYNC_SUCCESS.set(self._clock.now().timestamp())
            log.info("price_sync", outcome=outcome, detail=detail)
        return outcome

    async def _claim(self) -> _Look | None:
        claim, now = uuid4(), self._clock.now()
        async with transaction(self._pool) as connection:
            before = await import_store.sync_state(connection, PLATFORM_ORGANIZATION_ID)
            claimed = await import_store.claim_sync(
                connection,
                PLATFORM_ORGANIZATION_ID,
                self.settings.url_hash,
                now=now,
                until=now + timedelta(seconds=LONGEST_LOOK_S),
                claim=claim,
            )
            if claimed is None:
                return None
            etag, version, failures = claimed
            # What was taken back or imported by hand since is fetched again: the address decides.
            listed = await import_store.imported_list(connection, PLATFORM_ORGANIZATION_ID)
            if listed is None or listed.version != version:
                etag = ""
        return _Look(claim, etag, failures, before.outcome if before else "")

    async def _take(self, look: _Look) -> tuple[str, str]:
        """Fetch, read, compare and put in force; returns what came of it, and why."""
        try:
            async with asyncio.timeout(LONGEST_LOOK_S - DOWNLOAD_TIMEOUT_S):
                file = await self._fetched(look.etag)
        except DownloadError as error:
            return await self._failed(look, UNREACHABLE, str(error))
        except TimeoutError:
            return await self._failed(
                look, UNREACHABLE, f"{self.settings.shown_url} takes too long"
            )
        if file.data is None:
            async with transaction(self._pool) as connection:
                await self._finish(connection, look, NOT_MODIFIED, "", etag=look.etag)
            return NOT_MODIFIED, ""
        try:
            read = await importing.read(file.data, "auto", self._clock.now())
            return await self._import(look, read, file.etag)
        except BursarError as error:
            if error.reason not in _OUTCOMES:
                raise
            return await self._failed(look, _OUTCOMES[error.reason], error.message)

    async def _fetched(self, etag: str) -> Download:
        """The file, fetched on a thread that the end of the process does not wait for."""
        if self._thread is not None and self._thread.is_alive():
            raise DownloadError(
                f"{self.settings.shown_url} still holds up the look before this one"
            )
        loop = asyncio.get_running_loop()
        fetched: asyncio.Future[Download] = loop.create_future()

        def tell(result: Download | Exception) -> None:
            if fetched.done():
                return
            if isinstance(result, Exception):
                fetched.set_exception(result)
            else:
                fetched.set_result(result)

        def fetch() -> None:
            try:
                result: Download | Exception = self._fetch(self.settings.url, etag)
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                result = error
            # A loop that is closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, result)

        self._thread = threading.Thread(target=fetch, name="price-sync", daemon=True)
        self._thread.start()
        return await fetched

    async def _import(self, look: _Look, read: ImportedList, etag: str) -> tuple[str, str]:
        limits = Limits(Decimal(self.settings.max_change_percent))
        async with transaction(self._pool, read_only=True) as connection:
            plan = await importing.plan(connection, PLATFORM_ORGANIZATION_ID, read, limits)
        async with transaction(self._pool) as connection:
            outcome = await importing.take_over(
                connection,
                PLATFORM_ORGANIZATION_ID,
                plan,
                self.settings.shown_url,
                limits,
                force=False,
            )
            said = UNCHANGED if outcome.unchanged else IMPORTED
            changes = f", {len(outcome.changes)} models changed" if outcome.changes else ""
            detail = f"{read.version}: {len(read.prices)} prices{changes}"
            await self._finish(connection, look, said, detail, etag=etag, version=read.version)
        if outcome.change is not None:
            self._feed.publish(outcome.change)
        return said, detail

    async def _failed(self, look: _Look, outcome: str, detail: str) -> tuple[str, str]:
        async with transaction(self._pool) as connection:
            await self._finish(connection, look, outcome, detail, etag="")
            if outcome != look.last:
                # Once, not once a day: `bursar price sync` and the metrics go on telling.
                await import_store.insert_event(
                    connection,
                    PLATFORM_ORGANIZATION_ID,
                    "price_sync_failed",
                    f"{outcome}: {detail}"[:MOST_CHARACTERS_OF_A_DETAIL],
                    self._clock.now(),
                )
        return outcome, detail

    async def _finish(
        self,
        connection: Connection,
        look: _Look,
        outcome: str,
        detail: str,
        *,
        etag: str,
        version: str = "",
    ) -> None:
        """Say what came of the look, and when the next one is. Raises Superseded."""
        now, failed = self._clock.now(), outcome in _FAILED
        pause_s = self.settings.interval_s
        if outcome == UNREACHABLE:
            pause_s = min(pause_s, RETRY_FIRST_S << min(look.failures, MOST_DOUBLINGS))
        finished = await import_store.finish_sync(
            connection,
            PLATFORM_ORGANIZATION_ID,
            look.claim,
            etag=etag,
            version=version,
            outcome=outcome,
            detail=detail[:MOST_CHARACTERS_OF_A_DETAIL],
            failures=look.failures + 1 if failed else 0,
            next_at=now + timedelta(seconds=pause_s),
            succeeded_at=None if failed else now,
        )
        if not finished:
            raise Superseded


def _fetch(url: str, etag: str) -> Download:
    return download(url, most_bytes=MAX_LIST_BYTES, etag=etag, timeout_s=DOWNLOAD_TIMEOUT_S)
