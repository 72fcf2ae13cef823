"""What `bursar up` keeps: secrets, ports and process ids, each in a file that people can read."""

import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bursar_cli.up import leftovers
from bursar_cli.up.ports import free_port, is_free
from bursar_cli.up.private_files import DirectoryLock, read_json_object, write_private_json

HOST = "127.0.0.1"
LEFTOVER_NOTICE_S = 3.0  # for parts of a killed supervisor: the kernel told them to end
LEFTOVER_STOP_S = 10.0  # asked once more; then they are killed
RANDOM_BYTES = 32  # of a secret: 256 bits


class DataDirectoryError(RuntimeError):
    """The directory can't be used; the text names the file and what is wrong with it."""


class Secrets(msgspec.Struct, forbid_unknown_fields=True):
    """What must be the same after a restart. Kept with mode 0600."""

    admin_key: str = msgspec.field(
        default_factory=lambda: f"ba-{secrets.token_urlsafe(RANDOM_BYTES)}"
    )
    provider_key: str = msgspec.field(
        default_factory=lambda: f"sim-{secrets.token_urlsafe(RANDOM_BYTES)}"
    )
    """What sidecars present to the simulated provider, as they would to a real one."""
    sidecar_keys: dict[str, str] = {}
    """By the sidecar's name, made by the control plane."""
    app_keys: dict[str, str] = {}
    """Of the demo organization, by the key's name, made by the control plane."""


@dataclass(frozen=True, slots=True)
class PortWish:
    """What is known about a port before it is chosen."""

    asked: int | None
    """What the user said: a port, 0 for any free one, None if nothing."""
    usual: int = 0
    """The documented one, taken if nothing was said and it is free; 0 if there is none."""


class DataDirectory:
    """The directory, held by this process until `release`."""

    def __init__(self, root: Path) -> None:
        """Make and lock it. Raises DirectoryInUseError and OSError."""
        self.root = root.absolute()
        # Others may pass through (Postgres may run as somebody else) but not look.
        self.root.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._lock = DirectoryLock(self.root / "up.lock")
        self.logs.mkdir(exist_ok=True, mode=0o700)

    @property
    def logs(self) -> Path:
        """One log a part."""
        return self.root / "logs"

    @property
    def ready_file(self) -> Path:
        """Where everything is, for the `bursar` commands on this machine."""
        return self.root / "ready.json"

    def release(self) -> None:
        """Let another process have it."""
        self._lock.release()

    def secrets(self) -> Secrets:
        """Last time's secrets, or new ones. Raises DataDirectoryError."""
        path = self.root / "secrets.json"
        try:
            kept = msgspec.convert(read_json_object(path), Secrets)
        except (ValueError, OSError) as error:
            raise DataDirectoryError(f"{path}: {error}") from None
        self.keep_secrets(kept)
        return kept

    def keep_secrets(self, kept: Secrets) -> None:
        """Write them down."""
        write_private_json(self.root / "secrets.json", msgspec.to_builtins(kept))

    def ports(self, wishes: Mapping[str, PortWish]) -> dict[str, int]:
        """A port for each wish: what was asked, else last time's, else the usual, else any free.

        Raises DataDirectoryError if a port that was asked for is taken.
        """
        path = self.root / "ports.json"
        try:
            kept = msgspec.convert(read_json_object(path), dict[str, int])
        except (ValueError, OSError) as error:
            raise DataDirectoryError(f"{path}: {error}") from None
        chosen: dict[str, int] = {}
        for name, wish in wishes.items():
            taken = frozenset(chosen.values())
            if wish.asked:
                if wish.asked in taken or not is_free(HOST, wish.asked):
                    raise DataDirectoryError(
                        f"port {wish.asked} of {HOST}, asked for {name}, is taken; give another, "
                        "or 0 for any free one"
                    )
                chosen[name] = wish.asked
                continue
            usual = wish.usual if wish.asked is None else 0
            candidates = [port for port in (kept.get(name, 0), usual) if port]
            chosen[name] = next(
                (port for port in candidates if port not in taken and is_free(HOST, port)), 0
            ) or free_port(HOST, taken | frozenset(kept.values()))
        write_private_json(path, {**kept, **chosen})
        return chosen

    def keep_pids(self, pids: Mapping[str, int]) -> None:
        """Write down which processes run, each with when it was born."""
        born = {name: [pid, _birth(pid)] for name, pid in pids.items()}
        write_private_json(self.root / "pids.json", born)

    def see_off_leftovers(self) -> None:
        """Wait for the processes that a killed supervisor left; help those that do not end.

        Raises DataDirectoryError.
        """
        path = self.root / "pids.json"
        try:
            born = msgspec.convert(read_json_object(path), dict[str, tuple[int, str]])
        except (ValueError, OSError) as error:
            raise DataDirectoryError(f"{path}: {error}") from None

        def alive() -> list[int]:
            return [pid for pid, birth in born.values() if birth and _birth(pid) == birth]

        gone = leftovers.see_off(
            alive,
            (
                (None, LEFTOVER_NOTICE_S),
                (signal.SIGTERM, LEFTOVER_STOP_S),
                (signal.SIGKILL, LEFTOVER_NOTICE_S),
            ),
        )
        if not gone:
            raise DataDirectoryError(f"processes of an earlier run do not end: {alive()}")


def _birth(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty if it is gone or a zombie.

    A process id alone could be somebody else's by now; with this it could not.
    """
    try:
        # After the last parenthesis (a program's name may hold some): state is the first field
        # and the start time the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
