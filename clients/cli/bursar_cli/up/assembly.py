"""Which parts there are, how each is run, and where it listens."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bursar_cli.up.data_directory import HOST, DataDirectory, PortWish, Secrets
from bursar_cli.up.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from bursar_cli.up.identity import LAUNCHER
from bursar_cli.up.part import Launch, LaunchError, Part, StopSteps
from bursar_cli.up.private_files import write_private
from bursar_cli.up.readiness import answers

GRPC_PORT = 7443
HTTP_PORT = 7080
SIDECAR_PORT = 7070
SIDECAR_GRPC_PORT = 7071
SIDECAR_ADMIN_PORT = 7072
PROVIDER_PORT = 7090
MAX_SIDECARS = 32  # each is a process of tens of megabytes; more is another machine's work

# A sidecar lets calls in flight end for 30 s and tells the control plane what they cost.
SIDECAR_STOP: StopSteps = ((signal.SIGTERM, 40.0), (signal.SIGKILL, 5.0))
SERVER_STOP: StopSteps = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0))
PROVIDER_STOP: StopSteps = ((signal.SIGTERM, 12.0), (signal.SIGKILL, 5.0))
POSTGRES_STOP: StopSteps = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

PROVIDER_KEY_VARIABLE = "BURSAR_SIMULATED_PROVIDER_KEY"
# What a caller's environment says about another Bursar is not about the parts started here.
OURS = frozenset(
    {
        "BURSAR_ADDRESS",
        "BURSAR_ADMIN_ADDRESS",
        "BURSAR_ADMIN_KEY",
        "BURSAR_CONFIG",
        "BURSAR_DATABASE_URL",
        "BURSAR_DATA_DIR",
        "BURSAR_GRPC_ADDRESS",
        "BURSAR_HTTP_ADDRESS",
        "BURSAR_SIDECAR_ADMIN_ADDRESS",
        "BURSAR_SIDECAR_GRPC_ADDRESS",
        "BURSAR_SIDECAR_HTTP_ADDRESS",
        "BURSAR_SIDECAR_KEY",
    }
)


@dataclass(frozen=True, slots=True)
class Programs:
    """The command line of each part; tests put programs of their own here."""

    server: Sequence[str] = (sys.executable, "-m", "bursar_server")
    sidecar: Sequence[str] = (sys.executable, "-m", "bursar_sidecar")
    provider: Sequence[str] = (sys.executable, "-m", "bursar_cli", "simulate-provider")
    enrolment: Sequence[str] = (sys.executable, "-m", "bursar_cli.up.enrolment")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. A port: None for the usual one, 0 for any free one."""

    data_dir: Path
    ready_file: Path | None = None
    demo: bool = True
    sidecars: int = 1
    database_url: str = ""
    """Empty: an embedded Postgres."""
    grpc_port: int | None = None
    http_port: int | None = None
    sidecar_port: int | None = None
    """Of the first sidecar; the others take any free one."""
    sidecar_grpc_port: int | None = None
    sidecar_admin_port: int | None = None
    provider_port: int | None = None
    postgres_port: int | None = None
    programs: Programs = field(default_factory=Programs)

    def port_wishes(self) -> dict[str, PortWish]:
        """All ports but that of Postgres, which keeps its own."""
        wishes = {
            "grpc": PortWish(self.grpc_port, GRPC_PORT),
            "http": PortWish(self.http_port, HTTP_PORT),
            "provider": PortWish(self.provider_port, PROVIDER_PORT),
            "sidecar-1": PortWish(self.sidecar_port, SIDECAR_PORT),
            "sidecar-1-grpc": PortWish(self.sidecar_grpc_port, SIDECAR_GRPC_PORT),
            "sidecar-1-admin": PortWish(self.sidecar_admin_port, SIDECAR_ADMIN_PORT),
        }
        for number in range(2, self.sidecars + 1):
            wishes[f"sidecar-{number}"] = PortWish(0)
            wishes[f"sidecar-{number}-grpc"] = PortWish(0)
            wishes[f"sidecar-{number}-admin"] = PortWish(0)
        return wishes

    def sidecar_names(self) -> list[str]:
        """ "sidecar-1" and so on."""
        return [f"sidecar-{number}" for number in range(1, self.sidecars + 1)]


class Assembly:
    """Makes the parts. `spawned`, `changed` and `said` are handed to each (see Part)."""

    def __init__(
        self,
        options: Options,
        directory: DataDirectory,
        secrets: Secrets,
        ports: Mapping[str, int],
        *,
        spawned: Callable[[], None],
        changed: Callable[[], None],
        said: Callable[[str], None],
    ) -> None:
        self._options = options
        self._directory = directory
        self._secrets = secrets
        self._ports = ports
        self._spawned = spawned
        self._changed = changed
        self._said = said
        self._postgres: EmbeddedPostgres | None = None
        if not options.database_url:
            self._postgres = EmbeddedPostgres(directory.root, port=options.postgres_port or 0)

    @property
    def database_url(self) -> str:
        """Of the database in use; of an embedded one known once its part was started."""
        return self._options.database_url if self._postgres is None else self._postgres.url

    def release(self) -> None:
        """Let go of what the embedded Postgres holds, once it is stopped."""
        if self._postgres is not None:
            self._postgres.release()

    def postgres(self) -> Part | None:
        """The embedded Postgres; None where the database is elsewhere."""
        postgres = self._postgres
        if postgres is None:
            return None

        def launch() -> Launch:
            try:
                postgres.prepare()
            except EmbeddedPostgresError as error:
                raise LaunchError(str(error)) from None
            return Launch(postgres.command(), _inherited())

        async def is_ready() -> bool:
            return await asyncio.to_thread(postgres.is_ready)

        return self._part("postgres", launch, is_ready, POSTGRES_STOP)

    def server(self) -> Part:
        """The control plane."""
        http = self._ports["http"]

        def launch() -> Launch:
            environment = _inherited() | {
                "BURSAR_DATABASE_URL": self.database_url,
                "BURSAR_GRPC_ADDRESS": f"{HOST}:{self._ports['grpc']}",
                "BURSAR_HTTP_ADDRESS": f"{HOST}:{http}",
                "BURSAR_ADMIN_KEY": self._secrets.admin_key,
            }
            return Launch(dies_with_us(self._options.programs.server), environment)

        async def is_ready() -> bool:
            return await answers(HOST, http, "/readyz")

        return self._part("server", launch, is_ready, SERVER_STOP)

    def provider(self) -> Part:
        """The simulated provider."""
        port = self._ports["provider"]

        def launch() -> Launch:
            options = ["--host", HOST, "--port", str(port), "--require-api-key"]
            command = [*self._options.programs.provider, *options]
            return Launch(dies_with_us(command), _inherited())

        async def is_ready() -> bool:
            return await answers(HOST, port, "/readyz")

        return self._part("provider", launch, is_ready, PROVIDER_STOP)

    def sidecar(self, name: str) -> Part:
        """One sidecar, once its key is among the secrets."""
        port, admin_port = self._ports[name], self._ports[f"{name}-admin"]
        home = self._directory.root / name

        def launch() -> Launch:
            home.mkdir(exist_ok=True, mode=0o700)
            config = home / "sidecar.toml"
            write_private(config, self._sidecar_configuration())
            environment = _inherited() | {
                "BURSAR_ADDRESS": f"{HOST}:{self._ports['grpc']}",
                "BURSAR_SIDECAR_KEY": self._secrets.sidecar_keys[name],
                "BURSAR_SIDECAR_HTTP_ADDRESS": f"{HOST}:{port}",
                "BURSAR_SIDECAR_GRPC_ADDRESS": f"{HOST}:{self._ports[f'{name}-grpc']}",
                "BURSAR_SIDECAR_ADMIN_ADDRESS": f"{HOST}:{admin_port}",
                "BURSAR_DATA_DIR": str(home / "journal"),
                "BURSAR_CONFIG": str(config),
                PROVIDER_KEY_VARIABLE: self._secrets.provider_key,
            }
            return Launch(dies_with_us(self._options.programs.sidecar), environment)

        async def is_ready() -> bool:
            return await answers(HOST, admin_port, "/readyz") and await answers(
                HOST, port, "/healthz"
            )

        return self._part(name, launch, is_ready, SIDECAR_STOP)

    def _sidecar_configuration(self) -> str:
        # Named after the provider whose prices its models have, in all the dialects it speaks.
        address = f"http://{HOST}:{self._ports['provider']}"
        tables = "".join(
            f'[providers.{kind}]\nkind = "{kind}"\nbase_url = "{address}{version}"\n'
            f'api_key_env = "{PROVIDER_KEY_VARIABLE}"\n'
            for kind, version in (("openai", "/v1"), ("anthropic", ""), ("gemini", ""))
        )
        return (
            "# Written anew at every start. A real provider has its own URL and key here.\n"
            + tables
        )

    def _part(
        self,
        name: str,
        launch: Callable[[], Launch],
        is_ready: Callable[[], Awaitable[bool]],
        stop_steps: StopSteps,
    ) -> Part:
        return Part(
            name,
            launch,
            is_ready,
            log=self._directory.logs / f"{name}.log",
            stop_steps=stop_steps,
            spawned=self._spawned,
            changed=self._changed,
            said=self._said,
        )


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OURS}


def dies_with_us(program: Sequence[str]) -> list[str]:
    """The command line that runs `program` and has the kernel stop it when we are killed."""
    line = [sys.executable, "-I", "-S", str(LAUNCHER), "--parent", str(os.getpid())]
    return [*line, "--death-signal", str(int(signal.SIGTERM)), "--", *program]
