"""Sockets to listen on: TCP, and unix sockets that replace what a dead process left behind."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from typing import Final

from bursar_sidecar.setting_checks import UNIX, split_address

BACKLOG: Final = 1_024
PROBE_TIMEOUT_S: Final = 1.0
"""For somebody who listens on a socket to take a connection: the kernel does it at once."""


class AddressTaken(OSError):
    """Somebody else serves the address, or what is there is none of ours to remove."""


def bound(address: str, *, mode: str = "0600", share: bool = False) -> socket.socket:
    """A socket bound to `host:port` or `unix:/path`, for whoever listens on it.

    `mode` is the permissions of a unix socket; `share` lets other sockets of this user have the
    same port, so that the kernel spreads connections over those that listen. Raises OSError.
    """
    if address.startswith(UNIX):
        return _bound_unix(address.removeprefix(UNIX), int(mode, 8))
    host, port = split_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name of both families: the older one, as whoever types 127.0.0.1 expects.
    family, kind, protocol, _name, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(place)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def shown(made: socket.socket, address: str) -> str:
    """Where a socket that was bound to `address` is really bound: its port, if that was 0."""
    if made.family == socket.AF_UNIX:
        return address
    place = made.getsockname()
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


def removed(address: str, inode: int) -> bool:
    """Take a unix socket away, if what is there is still that one; `inode` is of `inode_of`."""
    path = address.removeprefix(UNIX)
    with contextlib.suppress(OSError):
        if inode and os.lstat(path).st_ino == inode:
            os.unlink(path)
            return True
    return False


def inode_of(address: str) -> int:
    """What tells a unix socket from another that took its path; 0 for TCP."""
    if not address.startswith(UNIX):
        return 0
    with contextlib.suppress(OSError):
        return os.lstat(address.removeprefix(UNIX)).st_ino
    return 0


def _bound_unix(path: str, mode: int) -> socket.socket:
    """Bound under another name, given its permissions, then moved into place: at no moment may
    anybody connect who must not, and what a dead process left is replaced in one step."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Of two that start at one time, the second must see that the first listens.
        fcntl.flock(directory, fcntl.LOCK_EX)
        _check_free(path)
        return _moved_into_place(path, mode)
    finally:
        os.close(directory)


def _moved_into_place(path: str, mode: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    draft = f"{os.path.dirname(path)}/.{os.getpid()}"
    umask = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        made.bind(draft)
        os.chmod(draft, mode)
        made.listen(BACKLOG)
        os.rename(draft, path)
    except OSError:
        made.close()
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    finally:
        os.umask(umask)
    made.setblocking(False)
    return made


def _check_free(path: str) -> None:
    """Raises AddressTaken unless there is nothing, or a socket on which nobody listens."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(there.st_mode):
        raise AddressTaken(errno.EEXIST, "there is something that is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except TimeoutError:
            pass  # its queue is full: somebody listens
    raise AddressTaken(errno.EADDRINUSE, "somebody listens there already", path)
