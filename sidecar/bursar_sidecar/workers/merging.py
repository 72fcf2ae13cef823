"""Several workers' metrics, readiness and holdings as one answer. Pure."""

from collections.abc import Mapping
from typing import Final

SUPERVISOR: Final = "supervisor"
"""Stands for a worker's number in what the supervisor itself counts."""
UP: Final = "bursar_sidecar_worker_up"
RESTARTS: Final = "bursar_sidecar_worker_restarts_total"


def merged_metrics(texts: Mapping[str, str]) -> str:
    """The texts that workers exposed, each sample labelled with its worker.

    All samples of a metric stand together, as the format demands; HELP and TYPE are the first's.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for worker, text in sorted(texts.items()):
        name = ""
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
                about, _samples = families.setdefault(name, ([], []))
                kind = line[:7]
                if not any(each.startswith(kind) for each in about):
                    about.append(line)
            elif line and not line.startswith("#"):
                families.setdefault(name, ([], []))[1].append(_labelled(line, worker))
    lines = [line for about, samples in families.values() for line in (*about, *samples)]
    return "".join(f"{line}\n" for line in lines)


def worker_metrics(up: Mapping[int, bool], restarts: Mapping[int, int]) -> str:
    """What a supervisor knows of its workers."""
    lines = [f"# HELP {UP} 1 while the worker serves.", f"# TYPE {UP} gauge"]
    lines += [f'{UP}{{worker="{number}"}} {int(is_up)}' for number, is_up in up.items()]
    lines += [
        f"# HELP {RESTARTS} How often the worker was started again after it died.",
        f"# TYPE {RESTARTS} counter",
    ]
    lines += [f'{RESTARTS}{{worker="{number}"}} {count}' for number, count in restarts.items()]
    return "".join(f"{line}\n" for line in lines)


def merged_readiness(reasons: Mapping[int, str | None]) -> str:
    """Why no calls should be sent here; "" when those who run can serve them.

    A reason of None is a worker's that does not run just now: the kernel gives it no connection.
    """
    running = {number: reason for number, reason in reasons.items() if reason is not None}
    if not running:
        return "no worker runs"
    return "; ".join(f"worker {number}: {reason}" for number, reason in running.items() if reason)


def _labelled(sample: str, worker: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
