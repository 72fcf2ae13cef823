"""The one place that knows all parts: builds them, starts them in order, drains them in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from bursar.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
    allowances_pb2,
    budgets_pb2,
    budgets_pb2_grpc,
    contracts_pb2,
    contracts_pb2_grpc,
    exchange_rates_pb2,
    exchange_rates_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    price_imports_pb2,
    price_imports_pb2_grpc,
    prices_pb2,
    prices_pb2_grpc,
    ratings_pb2,
    ratings_pb2_grpc,
    reports_pb2,
    reports_pb2_grpc,
    sidecars_pb2,
    sidecars_pb2_grpc,
)
from bursar_server.alerts.service import AlertService
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.budgets.exposure import ExposureMetrics
from bursar_server.budgets.service import BudgetService
from bursar_server.changes import ChangeFeed
from bursar_server.clock import Clock, SystemClock
from bursar_server.credentials import credential_of, new_credential
from bursar_server.database.migrate import is_migrated, migrate
from bursar_server.database.pool import Pool, create_pool, transaction
from bursar_server.errors import BursarError, Status
from bursar_server.exchange_rates.service import ExchangeRateService
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.server import GrpcServer, Register, Transport
from bursar_server.http import HttpServer
from bursar_server.identity import store as identity_store
from bursar_server.identity.key_service import KeyService
from bursar_server.identity.organization_service import OrganizationService
from bursar_server.identity.spender_service import ProjectService, TeamService, UserService
from bursar_server.ledger.service import LedgerService
from bursar_server.metrics import POOL_IDLE, POOL_SIZE
from bursar_server.policy.service import PolicyService
from bursar_server.prices.contract_service import PriceContractService
from bursar_server.prices.import_service import PriceImportService
from bursar_server.prices.service import PriceService, publish_snapshot
from bursar_server.prices.sync import PriceSync, SyncSettings
from bursar_server.ratings.service import RatingService
from bursar_server.reports.service import ReportService
from bursar_server.settings import Settings, SettingsError
from bursar_server.sidecars.service import SidecarService

log = structlog.get_logger(__name__)

# The first pause between two attempts to reach the database at the start, and the longest.
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0
# By then every call has ended or was cancelled; what is left is a dead network.
POOL_CLOSE_S = 5.0


class ControlPlane:
    """One process of the control plane: `start`, serve, `drain`."""

    def __init__(
        self,
        settings: Settings,
        show_admin_key: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        """`show_admin_key` is given the admin key if this start makes it, and must not keep it."""
        self._settings = settings
        self._clock = clock or SystemClock()
        self._show_admin_key = show_admin_key
        self._feed = ChangeFeed()
        self._pool: Pool | None = None
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None
        self._lending: AllowanceControl | None = None
        self._price_sync: PriceSync | None = None
        self.failed = asyncio.Event()
        """Set when this process can't go on and must be started again."""

    @property
    def grpc_address(self) -> str:
        """Where gRPC is served; empty before `start`."""
        return self._grpc.address if self._grpc else ""

    @property
    def http_address(self) -> str:
        """Where HTTP is served; empty before `start`."""
        return self._http.address if self._http else ""

    async def start(self) -> None:
        """Reach the database, migrate it, serve. Raises BursarError, and leaves nothing open."""
        try:
            await self._start()
        except BaseException:
            await self.drain()
            raise

    async def _start(self) -> None:
        settings = self._settings
        await _patiently(settings, lambda: migrate(settings.database_url))
        pool = self._pool = await create_pool(settings.database_url, size=settings.pool_size)
        POOL_SIZE.set_function(pool.get_size)
        POOL_IDLE.set_function(pool.get_idle_size)
        await _warn_of_weak_durability(pool)
        await publish_snapshot(pool)
        keys = AdminKeys(await self._admin_key_hashes(pool))
        lending = AllowanceControl(
            pool, self._feed, self._clock, lending_settings(settings), self.failed
        )
        self._price_sync = PriceSync(pool, self._feed, self._clock, sync_settings(settings))
        self._grpc = GrpcServer(
            _transport(settings), keys, self._services(pool, lending, self._price_sync)
        )
        self._http = HttpServer(
            settings.http_address,
            self._checks,
            ExposureMetrics(pool, self._clock, lending.hub.reserved_by_organization).refresh,
        )
        # Both addresses first: who can't have them must not take the shard from who has them.
        self._grpc.bind()
        self._http.bind()
        await lending.start()
        self._lending = lending
        await self._grpc.start()
        await self._http.start()
        self._price_sync.start()

    def _services(
        self, pool: Pool, lending: AllowanceControl, price_sync: PriceSync
    ) -> list[tuple[str, Register]]:
        """Every service with its full name."""
        feed, clock = self._feed, self._clock
        return [
            _service(
                identity_pb2.DESCRIPTOR.services_by_name["OrganizationService"],
                identity_pb2_grpc.add_OrganizationServiceServicer_to_server,
                OrganizationService(pool, feed),
            ),
            _service(
                identity_pb2.DESCRIPTOR.services_by_name["TeamService"],
                identity_pb2_grpc.add_TeamServiceServicer_to_server,
                TeamService(pool, feed),
            ),
            _service(
                identity_pb2.DESCRIPTOR.services_by_name["ProjectService"],
                identity_pb2_grpc.add_ProjectServiceServicer_to_server,
                ProjectService(pool, feed),
            ),
            _service(
                identity_pb2.DESCRIPTOR.services_by_name["UserService"],
                identity_pb2_grpc.add_UserServiceServicer_to_server,
                UserService(pool, feed),
            ),
            _service(
                identity_pb2.DESCRIPTOR.services_by_name["KeyService"],
                identity_pb2_grpc.add_KeyServiceServicer_to_server,
                KeyService(pool, feed, clock),
            ),
            _service(
                sidecars_pb2.DESCRIPTOR.services_by_name["SidecarService"],
                sidecars_pb2_grpc.add_SidecarServiceServicer_to_server,
                SidecarService(pool, feed, lending.connected_sidecars, lending.hub.reserved),
            ),
            _service(
                budgets_pb2.DESCRIPTOR.services_by_name["BudgetService"],
                budgets_pb2_grpc.add_BudgetServiceServicer_to_server,
                BudgetService(
                    pool,
                    feed,
                    clock,
                    lending.writer.budget_applied,
                    lending.hub.reserved,
                    valid_for_ms=lending.valid_for_ms,
                    is_connected=lending.is_connected,
                ),
            ),
            *self._prices(pool, lending),
            _service(
                price_imports_pb2.DESCRIPTOR.services_by_name["PriceImportService"],
                price_imports_pb2_grpc.add_PriceImportServiceServicer_to_server,
                PriceImportService(pool, feed, clock, price_sync),
            ),
            _service(
                ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
                ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
                LedgerService(pool, clock, lending),
            ),
            _service(
                policy_pb2.DESCRIPTOR.services_by_name["PolicyService"],
                policy_pb2_grpc.add_PolicyServiceServicer_to_server,
                PolicyService(pool, clock, lending.valid_for_ms, lending.is_connected),
            ),
            *self._readers(pool),
            (
                allowances_pb2.DESCRIPTOR.services_by_name["AllowanceService"].full_name,
                lending.add_to_server,
            ),
        ]

    def _prices(self, pool: Pool, lending: AllowanceControl) -> list[tuple[str, Register]]:
        """The services of what is paid for."""
        return [
            _service(
                prices_pb2.DESCRIPTOR.services_by_name["PriceService"],
                prices_pb2_grpc.add_PriceServiceServicer_to_server,
                PriceService(pool, self._feed),
            ),
            _service(
                contracts_pb2.DESCRIPTOR.services_by_name["PriceContractService"],
                contracts_pb2_grpc.add_PriceContractServiceServicer_to_server,
                PriceContractService(pool, self._feed),
            ),
            _service(
                ratings_pb2.DESCRIPTOR.services_by_name["RatingService"],
                ratings_pb2_grpc.add_RatingServiceServicer_to_server,
                RatingService(pool, self._clock, lending.corrector),
            ),
            _service(
                exchange_rates_pb2.DESCRIPTOR.services_by_name["ExchangeRateService"],
                exchange_rates_pb2_grpc.add_ExchangeRateServiceServicer_to_server,
                ExchangeRateService(pool, self._feed, self._clock),
            ),
        ]

    @staticmethod
    def _readers(pool: Pool) -> list[tuple[str, Register]]:
        """The services that only read what was committed."""
        return [
            _service(
                reports_pb2.DESCRIPTOR.services_by_name["ReportService"],
                reports_pb2_grpc.add_ReportServiceServicer_to_server,
                ReportService(pool),
            ),
            _service(
                alerts_pb2.DESCRIPTOR.services_by_name["AlertService"],
                alerts_pb2_grpc.add_AlertServiceServicer_to_server,
                AlertService(pool),
            ),
        ]

    async def drain(self) -> None:
        """End everything in order: nothing that was accepted is lost."""
        if self._price_sync is not None:
            await self._price_sync.stop()
        if self._grpc is not None:
            await self._grpc.retire()
            closing = asyncio.create_task(self._grpc.drain(self._settings.drain_ms / 1000))
            if self._lending is not None:
                await self._lending.drain()
            await closing
        if self._http is not None:
            await self._http.stop()
        if self._pool is not None:
            await _close(self._pool)

    async def _checks(self) -> Mapping[str, bool]:
        reachable = migrated = False
        if self._pool is not None:
            try:
                migrated = await is_migrated(self._pool)
                reachable = True
            except BursarError as error:
                log.warning("database_unreachable", cause=repr(error.__cause__))
            except Exception:
                # Whatever it is, a probe is answered: not ready.
                log.exception("readiness_check_failed")
        return {
            "database reachable": reachable,
            "migrations applied": migrated,
            "gRPC serving": self._grpc is not None and self._grpc.serving,
        }

    async def _admin_key_hashes(self, pool: Pool) -> list[bytes]:
        """The hashes of the keys to accept; makes the first key where there is none."""
        if self._settings.admin_key:
            return [credential_of(self._settings.admin_key).hash]
        made = new_credential("ba")
        async with transaction(pool) as connection:
            if await identity_store.insert_first_admin_key(connection, made):
                # Before it is committed: a key that was shown and is void can be replaced by the
                # next start, one that is valid and was never shown can't.
                self._show_admin_key(made.secret)
            return await identity_store.admin_key_hashes(connection)


def _service(
    descriptor: ServiceDescriptor, add: Callable[[Any, grpc.aio.Server], None], servicer: object
) -> tuple[str, Register]:
    return descriptor.full_name, lambda server: add(servicer, server)


def lending_settings(settings: Settings) -> LendingSettings:
    """The table [lending], checked. Raises SettingsError."""
    try:
        return msgspec.convert(settings.lending, LendingSettings, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(f"lending: {error}") from error


def sync_settings(settings: Settings) -> SyncSettings:
    """What the sync of a published price list may do."""
    return SyncSettings(
        settings.price_sync_url, settings.price_sync_interval_s, settings.price_sync_max_change
    )


def _transport(settings: Settings) -> Transport:
    def path(text: str) -> Path | None:
        return Path(text) if text else None

    return Transport(
        settings.grpc_address,
        path(settings.tls_cert),
        path(settings.tls_key),
        path(settings.tls_client_ca),
    )


async def _patiently(settings: Settings, attempt: Callable[[], Awaitable[None]]) -> None:
    """Repeat `attempt` while the database can't be reached, for as long as is set."""
    deadline = time.monotonic() + settings.database_wait_ms / 1000
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return await attempt()
        except BursarError as error:
            if error.status is not Status.UNAVAILABLE or time.monotonic() + pause_s > deadline:
                raise
            log.warning("database_unreachable", cause=str(error.__cause__), retry_in_s=pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_MOST_S)


async def _warn_of_weak_durability(pool: Pool) -> None:
    """What would let the database forget what it confirmed is worth a line at each start."""
    if await pool.fetchval("SHOW synchronous_commit") == "off":
        log.warning("synchronous_commit_is_off", effect="a crash of Postgres may forget charges")
    if not await pool.fetchval("SHOW synchronous_standby_names"):
        log.info("no_synchronous_standby", effect="a lost disk of Postgres loses the ledger")


async def _close(pool: Pool) -> None:
    try:
        await asyncio.wait_for(pool.close(), POOL_CLOSE_S)
    except TimeoutError:
        pool.terminate()
