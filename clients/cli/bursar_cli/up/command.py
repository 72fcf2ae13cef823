"""`bursar up`, `bursar server`, and how `bursar sidecar` runs one."""

import asyncio
import importlib.util
import os
import signal
import sys
import tomllib
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from bursar_cli.exit_codes import BAD_USAGE
from bursar_cli.up.assembly import MAX_SIDECARS, Options, dies_with_us
from bursar_cli.up.data_directory import DataDirectoryError
from bursar_cli.up.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from bursar_cli.up.part import PartError
from bursar_cli.up.private_files import DirectoryInUseError
from bursar_cli.up.supervisor import Supervisor

DEFAULT_DATA_DIR = Path(".bursar")
# All but --data-dir is the server's own, --help included.
PASSED_THROUGH = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def _port(default: str) -> Any:
    return typer.Option(
        min=0, max=65535, help=f"Usual: {default}; 0 takes any free one.", show_default=False
    )


def up(
    data_dir: Annotated[
        Path, typer.Option(envvar="BURSAR_DATA_DIR", help="Where everything is kept.")
    ] = DEFAULT_DATA_DIR,
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON with addresses and keys, written when all serves.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo/--no-demo", help="Make the demo organization.")
    ] = True,
    sidecars: Annotated[int, typer.Option(min=1, max=MAX_SIDECARS, help="How many.")] = 1,
    database_url: Annotated[
        str,
        typer.Option(
            envvar="BURSAR_DATABASE_URL",
            help="Use this database instead of an embedded one.",
            show_envvar=True,
        ),
    ] = "",
    grpc_port: Annotated[int | None, _port("7443")] = None,
    http_port: Annotated[int | None, _port("7080")] = None,
    sidecar_port: Annotated[int | None, _port("7070 for the first, any for the others")] = None,
    sidecar_grpc_port: Annotated[int | None, _port("7071 for the first")] = None,
    sidecar_admin_port: Annotated[int | None, _port("7072 for the first")] = None,
    provider_port: Annotated[int | None, _port("7090")] = None,
    postgres_port: Annotated[int | None, _port("any free one")] = None,
) -> None:
    """Run everything until Ctrl-C: Postgres, control plane, sidecars, simulated provider.

    A usual port that is taken is replaced by a free one; one that was asked for is not. What dies
    is started again on the same port with the same data.
    """
    options = Options(
        data_dir=data_dir,
        ready_file=ready_file,
        demo=demo,
        sidecars=sidecars,
        database_url=database_url,
        grpc_port=grpc_port,
        http_port=http_port,
        sidecar_port=sidecar_port,
        sidecar_grpc_port=sidecar_grpc_port,
        sidecar_admin_port=sidecar_admin_port,
        provider_port=provider_port,
        postgres_port=postgres_port,
    )
    run_up(options)


def run_up(options: Options) -> None:
    """Run a supervisor; a fault is told in a sentence, with exit code 1."""
    typer.echo("starting Bursar ...")

    async def run() -> None:
        await Supervisor(options, said=typer.echo, serving=_tell).run()

    try:
        asyncio.run(run())
    except (DataDirectoryError, DirectoryInUseError, PartError, OSError) as error:
        typer.echo(f"bursar up: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("stopped")


def _tell(ready: dict[str, Any]) -> None:
    """Where everything is, and something to paste."""
    rows = [
        ("control plane", f"{ready['grpc']} (gRPC), {ready['http']} (metrics, health)"),
        ("simulated provider", f"{ready['provider']}/v1"),
        *(
            (f"sidecar {number}", f"{address}/v1, {grpc} (gRPC)")
            for number, (address, grpc) in enumerate(
                zip(ready["sidecars"], ready["sidecar_grpcs"], strict=True), start=1
            )
        ),
        ("admin key", ready["admin_key"]),
    ]
    if ready["demo_key"]:
        rows.append(("demo key", ready["demo_key"]))
    rows.append(("data, logs, secrets", ready["data_dir"]))
    width = max(len(name) for name, _ in rows)
    typer.echo("Bursar is up.\n")
    for name, text in rows:
        typer.echo(f"  {name:<{width}}  {text}")
    if ready["demo_key"]:
        typer.echo(
            "\nSpend something (the cost is in the answer's x-bursar-cost):\n\n"
            f"  curl -i {ready['sidecar']}/v1/chat/completions \\\n"
            f"    -H 'Authorization: Bearer {ready['demo_key']}' \\\n"
            "    -H 'Content-Type: application/json' \\\n"
            '    -d \'{"model": "gpt-4o-mini", "max_tokens": 100, '
            '"messages": [{"role": "user", "content": "Hello"}]}\'\n'
        )
    typer.echo("Ctrl-C stops all of it.")
    sys.stdout.flush()


def server(
    context: typer.Context,
    data_dir: Annotated[
        Path,
        typer.Option(envvar="BURSAR_DATA_DIR", help="Where the embedded Postgres is kept."),
    ] = DEFAULT_DATA_DIR,
) -> None:
    """Run the control plane; without a database_url on an embedded Postgres.

    All other options are the server's own.
    """
    _check_installed("server", "asyncpg")
    program = [sys.executable, "-m", "bursar_server", *context.args]
    if _asks_for_help(context.args):
        typer.echo(
            "Without a database_url (environment, option or file), an embedded Postgres is run "
            f"in --data-dir (BURSAR_DATA_DIR), {data_dir} by default.\n"
        )
    if os.environ.get("BURSAR_DATABASE_URL") or _needs_no_postgres(context.args):
        _become(program)
    postgres = EmbeddedPostgres(data_dir)
    try:
        # Before the server's own signals are handed on: a stop meanwhile ends all by itself.
        postgres.start()
    except EmbeddedPostgresError as error:
        typer.echo(f"bursar server: {error}", err=True)
        raise typer.Exit(1) from None
    try:
        code = _run_beside(
            dies_with_us(program), {**os.environ, "BURSAR_DATABASE_URL": postgres.url}
        )
    finally:
        postgres.stop()
    raise typer.Exit(code)


def run_sidecar(arguments: list[str]) -> None:
    """Become the sidecar's program; does not return. Its options are in `arguments`."""
    _check_installed("sidecar", "httptools")
    _become([sys.executable, "-m", "bursar_sidecar", *arguments])


def _check_installed(extra: str, module: str) -> None:
    """Tell what is missing before starting, with exit code 2."""
    if importlib.util.find_spec(module) is None:
        typer.echo(f"bursar {extra} needs more packages: pip install 'bursar[{extra}]'", err=True)
        raise typer.Exit(BAD_USAGE)


def _become(program: list[str]) -> NoReturn:
    """Replace this process, so that the program gets every signal itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program[0], program)


def _asks_for_help(arguments: list[str]) -> bool:
    return bool({"--help", "-h"} & set(arguments))


def _needs_no_postgres(arguments: list[str]) -> bool:
    """Whether the server was told of a database, or will not open one."""
    told = any(argument.split("=")[0] == "--database-url" for argument in arguments)
    return (
        told
        or "--print-settings" in arguments
        or _asks_for_help(arguments)
        or _file_tells_database(arguments)
    )


def _file_tells_database(arguments: list[str]) -> bool:
    """Whether the server's settings file names a database, or can't be read: it will say why."""
    path = os.environ.get("BURSAR_CONFIG", "")
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            path = value if equals else "".join(arguments[place + 1 : place + 2])
    if not path:
        return False
    try:
        with Path(path).open("rb") as file:
            return "database_url" in tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return True


def _run_beside(program: list[str], environment: dict[str, str]) -> int:
    """Run `program` to its end, handing on SIGINT and SIGTERM; returns its exit code."""
    # In a session of its own, or Ctrl-C would reach it twice.
    child = os.posix_spawn(program[0], program, environment, setsid=True)

    def hand_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) % 256


def register(app: typer.Typer) -> None:
    """Add these commands to the `bursar` program."""
    app.command("up")(up)
    app.command("server", context_settings=PASSED_THROUGH)(server)
