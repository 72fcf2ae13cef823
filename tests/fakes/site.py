"""A whole installation whose every part the test starts, kills and starves by itself.

Each sidecar reaches the control plane through a wire of its own that can fail (`wire_faults`). In
contrast to `bursar up` (see `stack`), nothing is started again by itself.
"""

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import environ
from pathlib import Path

from bursar.client import BursarClient, BursarError
from bursar.v1 import budgets_pb2, identity_pb2, money_pb2, sidecars_pb2
from tests.fakes.programs import PostgresProgram, Program, module
from tests.fakes.stack import ServedCall, served_by
from tests.fakes.until import until
from tests.fakes.wire_faults import FaultyWire

ORGANIZATION = "organizations/site"
PROVIDER_KEY = "sk-simulated"
SHORT_VALIDITY_MS = 3_000
"""The least there may be."""


class Sidecar(Program):
    """A sidecar, its journal and its wire."""

    def __init__(self, name: str, directory: Path, wire: FaultyWire, settings: Path) -> None:
        home = directory / name
        home.mkdir()
        self.wire = wire
        self.home = home
        self.key = ""
        self._variables = {
            "BURSAR_ADDRESS": wire.address,
            "BURSAR_SIDECAR_HTTP_ADDRESS": "127.0.0.1:0",
            "BURSAR_SIDECAR_ADMIN_ADDRESS": "127.0.0.1:0",
            "BURSAR_SIDECAR_GRPC_ADDRESS": "127.0.0.1:0",
            "BURSAR_DATA_DIR": str(home),
            "BURSAR_CONFIG": str(settings),
            "PROVIDER_KEY": PROVIDER_KEY,
        }
        super().__init__(name, directory, module("bursar_sidecar"), self._variables)

    def enrol(self, key: str) -> None:
        """Give it its credential."""
        self._variables["BURSAR_SIDECAR_KEY"] = key

    def tell(self, **variables: str) -> None:
        """More settings, as variables of the environment, from the next start on."""
        self._variables |= variables

    @property
    def address(self) -> str:
        """Where apps call: `host:port`. It changes with every start."""
        return str(self.said.get("http", "")).removeprefix("http://")


class Site:
    """Postgres, the simulated provider, a control plane and sidecars."""

    def __init__(
        self,
        directory: Path,
        sidecars: Sequence[str],
        *,
        lending: Mapping[str, int],
        postgres: Mapping[str, str],
        currency: str = "USD",
    ) -> None:
        self.directory = directory
        self._currency = currency
        self.admin_key = f"ba-{secrets.token_hex(24)}"
        # Others pass through: Postgres may have to be somebody else.
        directory.chmod(0o711)
        self.postgres = PostgresProgram(directory / "data", postgres)
        (directory / "data").mkdir(mode=0o711)
        self._server_settings = directory / "server.toml"
        lines = [f"{name} = {value}" for name, value in lending.items()]
        self._server_settings.write_text("\n".join(["[lending]", *lines]) + "\n")
        self._provider_file = directory / "provider.json"
        self.provider = Program(
            "provider",
            directory,
            module(
                *("bursar_cli", "simulate-provider", "--port", "0", "--require-api-key"),
                *("--ready-file", str(self._provider_file)),
            ),
            {},
        )
        self.provider_url = ""
        self._control_planes: list[Program] = []
        self.server = self.control_plane("server")
        self.sidecars: dict[str, Sidecar] = {}
        self._sidecar_settings = directory / "sidecar.toml"
        self._names = list(sidecars)
        self._admins: list[BursarClient] = []
        self._wires: list[FaultyWire] = []

    # -- parts ---------------------------------------------------------------------------------

    def control_plane(self, name: str) -> Program:
        """A control plane over the database; not started."""
        # The database is told at the start: its port is known only then.
        made = _ControlPlane(name, self.directory, self)
        self._control_planes.append(made)
        return made

    def server_environment(self) -> dict[str, str]:
        """What a control plane is told."""
        return {
            "BURSAR_DATABASE_URL": self.postgres.url,
            "BURSAR_GRPC_ADDRESS": "127.0.0.1:0",
            "BURSAR_HTTP_ADDRESS": "127.0.0.1:0",
            "BURSAR_ADMIN_KEY": self.admin_key,
            "BURSAR_CONFIG": str(self._server_settings),
        }

    def start(self) -> None:
        """Start all but the sidecars, and enrol those."""
        self.postgres.launch()
        self.provider.launch()
        self.postgres.wait_until_serving()
        self.start_server()
        until(self._provider_file.exists, "the provider serves")
        told = self._provider_file.read_text()
        self.provider_url = told.partition('"provider": "')[2].partition('"')[0]
        self._sidecar_settings.write_text(
            "".join(
                f'[providers.{kind}]\nkind = "{kind}"\n'
                f'base_url = "{self.provider_url}{version}"\napi_key_env = "PROVIDER_KEY"\n'
                for kind, version in (("openai", "/v1"), ("anthropic", ""), ("gemini", ""))
            )
        )
        self.admin.organizations.CreateOrganization(
            identity_pb2.CreateOrganizationRequest(
                organization=identity_pb2.Organization(name=ORGANIZATION, currency=self._currency)
            )
        )
        for name in self._names:
            self.add_sidecar(name)

    def add_sidecar(self, name: str) -> Sidecar:
        """Enrol a sidecar; not started."""
        wire = FaultyWire(self._target(self.server))
        wire.open()
        self._wires.append(wire)
        sidecar = Sidecar(name, self.directory, wire, self._sidecar_settings)
        created = self.admin.sidecars.CreateSidecar(
            sidecars_pb2.CreateSidecarRequest(
                sidecar=sidecars_pb2.Sidecar(name=f"sidecars/{name}", organization=ORGANIZATION)
            )
        )
        sidecar.enrol(created.secret)
        self.sidecars[name] = sidecar
        return sidecar

    def start_server(self) -> None:
        """Start the control plane, and aim every wire and the admin's client at it."""
        self.server.start()
        self.aim(self.server)

    def aim(self, server: Program) -> None:
        """From now on `server` is the control plane; connections that are open stay."""
        self.server = server
        for wire in self._wires:
            wire.aim(self._target(server))
        self._admins.append(BursarClient(server.said["grpc"], self.admin_key))

    def start_sidecars(self) -> None:
        """Start those that don't run, and wait until they admit calls."""
        starting = [each for each in self.sidecars.values() if not each.is_running]
        for sidecar in starting:
            sidecar.launch()
        for sidecar in starting:
            sidecar.wait_until_serving()

    def stop(self) -> None:
        """Stop everything in order. Fails where a part can't."""
        try:
            for sidecar in self.sidecars.values():
                sidecar.send(signal.SIGTERM)
            codes = {each.name: each.wait_for_end() for each in self.sidecars.values()
                     if each.was_started}  # fmt: skip
            for part in (self.server, self.provider):
                if part.is_running:
                    codes[part.name] = part.stop()
            assert set(codes.values()) <= {0}, f"{codes}\n{self.log()}"
        finally:
            programs = [*self.sidecars.values(), *self._control_planes, self.provider]
            for program in programs:
                if program.is_running:
                    program.kill()
            for admin in self._admins:
                admin.close()
            for wire in self._wires:
                wire.close()
            self.postgres.stop()
            self.postgres.kill()
            self.postgres.server.release()

    # -- questions -----------------------------------------------------------------------------

    @property
    def admin(self) -> BursarClient:
        """Of the present control plane."""
        return self._admins[-1]

    def served(self) -> dict[str, ServedCall]:
        """The provider's bill, by call id, once no call is in flight."""
        return served_by(self.provider_url)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `bursar ...` against the present control plane."""
        clean = {k: v for k, v in environ.items() if not k.startswith("BURSAR_")}
        return subprocess.run(
            [sys.executable, "-m", "bursar_cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                **clean,
                "BURSAR_ADDRESS": self.server.said["grpc"],
                "BURSAR_ADMIN_KEY": self.admin_key,
            },
        )

    def log(self) -> str:
        """The ends of all logs."""
        parts: list[Program | PostgresProgram] = [self.postgres]
        parts += [self.provider, self.server, *self.sidecars.values()]
        return "\n".join(f"--- {part.name}\n{part.log()}" for part in parts)

    def make_key(self) -> tuple[str, str]:
        """A key: (name, secret)."""
        made = self.admin.keys.CreateKey(identity_pb2.CreateKeyRequest(key=identity_pb2.Key()))
        return made.key.name, made.secret

    def make_budget(self, scope: str, limit_nanos: int) -> str:
        """A hard budget without an end; its name."""
        return self.admin.budgets.CreateBudget(
            budgets_pb2.CreateBudgetRequest(
                budget=budgets_pb2.Budget(
                    scope=scope,
                    limit=money_pb2.Money(nanos=limit_nanos, currency=self._currency),
                    window=budgets_pb2.Window(lifetime=budgets_pb2.Window.Lifetime()),
                )
            )
        ).name

    def standing(self, budget: str) -> budgets_pb2.BudgetStanding:
        """How a budget stands."""
        return self.admin.budgets.GetBudget(budgets_pb2.GetBudgetRequest(name=budget)).standing

    def verify(self) -> None:
        """The ledger is whole. Asked again while the database is being started."""

        def look() -> subprocess.CompletedProcess[str] | None:
            done = self.cli("ledger", "verify")
            return done if done.returncode in (0, 1) else None

        done = until(look, "the ledger can be verified")
        assert done.returncode == 0, done.stdout + done.stderr

    def is_reachable(self) -> bool:
        """Whether the control plane answers from its database."""
        try:
            self.admin.organizations.GetOrganization(
                identity_pb2.GetOrganizationRequest(name=ORGANIZATION)
            )
        except BursarError:
            return False
        return True

    @staticmethod
    def _target(server: Program) -> tuple[str, int]:
        host, _, port = server.said["grpc"].rpartition(":")
        return host, int(port)


class _ControlPlane(Program):
    def __init__(self, name: str, directory: Path, site: Site) -> None:
        self._site = site
        super().__init__(name, directory, module("bursar_server"), {})

    def launch(self) -> None:
        self._environment = self._site.server_environment()
        super().launch()


@contextmanager
def site(
    directory: Path,
    *,
    sidecars: Sequence[str] = ("one", "two"),
    lending: Mapping[str, int] | None = None,
    postgres: Mapping[str, str] | None = None,
    currency: str = "USD",
) -> Iterator[Site]:
    """An installation for the length of a test, all of it started but the sidecars."""
    made = Site(
        directory,
        sidecars,
        lending={"valid_for_ms": SHORT_VALIDITY_MS} if lending is None else lending,
        postgres=postgres or {},
        currency=currency,
    )
    try:
        made.start()
        yield made
    except BaseException:
        print(made.log())
        raise
    finally:
        made.stop()
