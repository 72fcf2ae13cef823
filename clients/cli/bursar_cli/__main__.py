"""The `bursar` program: one module a noun, imported when it is used."""

from collections.abc import MutableMapping
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from bursar_cli.lazy import LazyCommand

PROGRAMS: Final = "Programs"
NOUNS: Final = "Nouns"

# Name, module, what `bursar --help` says, and under which heading.
COMMANDS: Final[tuple[tuple[str, str, str, str], ...]] = (
    (
        "up",
        "bursar_cli.up.command",
        "Run everything until Ctrl-C: Postgres, control plane, sidecars, simulated provider.",
        PROGRAMS,
    ),
    ("server", "bursar_cli.up.command", "Run the control plane.", PROGRAMS),
    (
        "simulate-provider",
        "bursar_cli.simulated_provider.command",
        "Serve OpenAI-shaped answers without a model, and count every call.",
        PROGRAMS,
    ),
    ("org", "bursar_cli.org", "Organizations, each with books of its own.", NOUNS),
    ("team", "bursar_cli.team", "Groups of people and keys.", NOUNS),
    ("project", "bursar_cli.project", "Pieces of work that are paid for.", NOUNS),
    ("user", "bursar_cli.user", "People (or robots) who own keys.", NOUNS),
    ("key", "bursar_cli.key", "What apps present to a sidecar.", NOUNS),
    ("budget", "bursar_cli.budget", "What may be spent, per window of time.", NOUNS),
    ("policy", "bursar_cli.policy", "How far a change has come, and who does not know yet.", NOUNS),
    ("price", "bursar_cli.price", "What models cost; quotes.", NOUNS),
    ("fx", "bursar_cli.fx", "What currencies are worth in each other, and since when.", NOUNS),
    ("spend", "bursar_cli.spend", "Who spent what, on what.", NOUNS),
    ("ledger", "bursar_cli.ledger", "Every charge, and the proof that none is lost.", NOUNS),
    ("alert", "bursar_cli.alert", "What people should know.", NOUNS),
    (
        "sidecar",
        "bursar_cli.sidecar",
        "Enrol sidecars, see what they hold; without a verb, run one.",
        NOUNS,
    ),
)


class Program(TyperGroup):
    """All commands by name; none of their modules is imported before it is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        lazy: MutableMapping[str, Any] = self.commands
        for name, module, text, panel in COMMANDS:
            lazy[name] = LazyCommand(name, module, text, panel)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"bursar {version('bursar')}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(
        name="bursar",
        cls=Program,
        help="Who spent what, on what, and why; and never more than was decided.\n\n"
        "Exit codes: 0 ok, 1 refused by the server, 2 bad usage, 3 unreachable.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    @app.callback()
    def _program(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", callback=_print_version, is_eager=True
            ),
        ] = False,
    ) -> None: ...

    return app


def main() -> None:
    """Run the program; the exit code is 0, 1 refused, 2 bad usage or 3 unreachable."""
    build_app()()


if __name__ == "__main__":
    main()
