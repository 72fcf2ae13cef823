"""The `bursar` program: one module a noun, each adding its own commands."""

from typing import Protocol

import typer

from bursar_cli.simulated_provider import command as simulated_provider


class Commands(Protocol):
    """What a module of commands offers."""

    def register(self, app: typer.Typer) -> None:
        """Add its commands to the program."""


# In the order in which `bursar --help` lists them.
MODULES: tuple[Commands, ...] = (simulated_provider,)


def build_app() -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(
        name="bursar",
        help="Who spent what, on what, and why; and never more than was decided.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    # With a callback, the program keeps its subcommands even while it has only one.
    @app.callback()
    def _program() -> None: ...

    for module in MODULES:
        module.register(app)
    return app


def main() -> None:
    """Run the program; the exit code is 0, 1 refused, 2 bad usage or 3 unreachable."""
    build_app()()


if __name__ == "__main__":
    main()
