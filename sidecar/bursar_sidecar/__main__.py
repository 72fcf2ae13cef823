"""`python -m bursar_sidecar`, which is `bursar sidecar`: see `command.py`."""

import gc
import sys


def main() -> int:
    """Run the program in as little memory and as fast as it can start."""
    # Nothing made while starting is garbage; the program turns the collector on when it serves.
    gc.disable()
    # structlog imports rich where it is installed, for tracebacks on a terminal: 4 MB and a
    # quarter of the start, in a process that logs JSON.
    sys.modules["rich"] = None  # type: ignore[assignment]  # None: "can't be imported"
    # Imported here because what is above must be done before.
    from bursar_sidecar.command import main as run  # noqa: PLC0415  (see above)

    return run()


if __name__ == "__main__":
    sys.exit(main())
