"""The garbage collector of a long-lived server.

Almost all that a frame or a request makes is freed by its reference count. With Python's own
settings the collector looked for cycles among all of it every few hundred objects, and now and then
through all that the process had loaded: a quarter of the CPU at a thousand calls a second, in
pauses that calls waited for.
"""

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 20)
"""Objects made, and not freed, before the youngest are looked through: a step with hundreds of
frames stays below it. Cycles, which errors make, wait longer; they are few."""


def settle() -> None:
    """Call it when everything is loaded and serves: what there is by now lives as long as the
    process, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
