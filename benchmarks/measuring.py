"""What every benchmark here measures with: spreads, CPU and memory of a process, a printed line.

Figures of a shared machine mean little by themselves. So each benchmark repeats what it measures
and its baseline in turn, within one run, and prints the ratio with its least, median and greatest.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

CPU_CLOCK_OF_A_PROCESS = 2
"""CPUCLOCK_SCHED: the low bits of the clock's id, as Linux makes it of a process's."""
BYTES_A_MB = 1_000_000


class Spread(msgspec.Struct, frozen=True):
    """The least, the median and the greatest of some repeats."""

    least: float
    median: float
    greatest: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.least)} - {_short(self.greatest)})"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(min(values), statistics.median(values), max(values))


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def ratios(ours: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Ours over the baseline, repeat by repeat: both of a pair met the same noise."""
    return spread([a / b for a, b in zip(ours, baseline, strict=True)])


def cpu_s(pid: int) -> float:
    """CPU seconds (user and system) that a process has used, all its threads: the process's own
    CPU clock (clock_getcpuclockid(3)), which counts nanoseconds where proc(5) counts hundredths."""
    return time.clock_gettime(~pid << 3 | CPU_CLOCK_OF_A_PROCESS)


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, in MB: proc(5), status, VmRSS (in units of 1024 B)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / BYTES_A_MB
    raise ValueError(f"/proc/{pid}/status has no VmRSS: the process has ended")


def say(what: str, figure: object, unit: str = "", *, against: str = "", target: str = "") -> None:
    """Print one line of the outcome."""
    line = f"{what:<58} {figure!s} {unit}".rstrip()
    if against:
        line += f"   against {against}"
    if target:
        line += f"   [target {target}]"
    print(line, flush=True)


def title(text: str) -> None:
    """Say which benchmark this is."""
    print(f"\n{text}", flush=True)


def parsed(document: str | None, **numbers: int) -> Callable[[str], int]:
    """Whole numbers from the command line: `--repeats 5`. Returns what looks one up."""
    parser = argparse.ArgumentParser(description=document)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    options = vars(parser.parse_args(sys.argv[1:]))
    return options.__getitem__
