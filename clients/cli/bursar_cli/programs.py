"""Commands that become another program: the control plane and the sidecar have their own options.

The process is replaced, so that the program gets every signal itself and carries nothing of the
CLI in its memory.
"""

import importlib.util
import os
import sys
from typing import Final

import typer

from bursar_cli.exit_codes import BAD_USAGE

# A module of the extra that each program needs, to tell what is missing before starting.
_NEEDS: Final = {"server": "asyncpg", "sidecar": "httptools"}
_PASS_ON: Final = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def add_run(app: typer.Typer, name: str, package: str, extra: str) -> None:
    """Add a command that runs `python -m package` with whatever stands behind it."""

    @app.command(
        name, context_settings=_PASS_ON, help=f"Run one {extra}; {name} --help tells its settings."
    )
    def run(context: typer.Context) -> None:
        if importlib.util.find_spec(_NEEDS[extra]) is None:
            typer.echo(
                f"bursar {extra} needs more packages: pip install 'bursar[{extra}]'", err=True
            )
            raise typer.Exit(BAD_USAGE)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", package, *context.args])
