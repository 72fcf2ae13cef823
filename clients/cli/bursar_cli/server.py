"""`bursar server`: the control plane."""

import typer

from bursar_cli import programs


def register(app: typer.Typer) -> None:
    """Add this command to the `bursar` program."""
    programs.add_run(app, "server", "bursar_server", "server")
