"""`python -m bursar_sidecar`, which is `bursar sidecar`: see `command.py`."""

import gc
import sys

from bursar_sidecar.light_imports import lighten


def main() -> int:
    """Run the program in as little memory and as fast as it can start."""
    # Nothing made while starting is garbage; the program turns the collector on when it serves.
    gc.disable()
    lighten()
    # Imported here because what is above must be done before.
    from bursar_sidecar.command import main as run  # noqa: PLC0415  (see above)

    return run()


if __name__ == "__main__":
    sys.exit(main())
