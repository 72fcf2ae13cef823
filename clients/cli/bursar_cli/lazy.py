"""Commands that are imported when they are used, so that `bursar --help` answers at once.

The modules behind them import gRPC, the protos and whole programs: a quarter of a second that
nobody should wait for who only wants to know what there is.
"""

import importlib
from collections.abc import MutableMapping
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command


class LazyCommand(TyperGroup):
    """Stands for a command of its name; what help of the program shows of it is known already.

    `module` offers `app`, or `register(app)` which adds one command of this name.
    """

    def __init__(self, name: str, module: str, short_help: str, panel: str) -> None:
        self._module = module
        self._loaded: Any = None
        super().__init__(name=name, help=short_help, rich_help_panel=panel)

    def load(self) -> Any:
        """The command itself."""
        if self._loaded is None:
            module = importlib.import_module(self._module)
            if hasattr(module, "app"):
                self._loaded = get_command(module.app)
                self._loaded.name = self.name
            else:
                self._loaded = _registered(module, str(self.name))
        # Whoever replaced the callback of the stand-in means the command.
        if self.callback is not None:
            self._loaded.callback = self.callback
        return self._loaded

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """The verbs below it; none if it has none."""
        return getattr(self.load(), "commands", {})

    @commands.setter
    def commands(self, commands: MutableMapping[str, Any]) -> None:
        # The base class sets its empty dictionary; the real ones come from the module.
        if commands:
            raise ValueError("the commands of a lazy command come from its module")

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the command itself: from here on the stand-in is out of the way."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


def _registered(module: Any, name: str) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    # With a callback, the program keeps its subcommands even while it has only one.
    @app.callback()
    def _program() -> None: ...

    module.register(app)
    group: Any = get_command(app)
    return group.commands[name]
