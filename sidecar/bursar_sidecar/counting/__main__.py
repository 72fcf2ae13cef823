"""`python -m bursar_sidecar.counting`: see `process.py`."""

import sys

from bursar_sidecar.counting.process import main

if __name__ == "__main__":
    sys.exit(main())
