"""TCP ports of this machine: which are free, and which to take."""

import errno
import random
import socket
from pathlib import Path

ATTEMPTS = 1_000  # random picks; even a machine with half its ports taken needs about two
LOWEST = 20_000  # above what well-known services use
FALLBACK_EPHEMERAL = 32_768  # Linux' own default

_claims: dict[int, socket.socket] = {}


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `port` of `host` now."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger after their end are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str, taken: frozenset[int] = frozenset()) -> int:
    """A free port that stays free for a server that restarts on it, not one of `taken`.

    The kernel gives outgoing connections ports of its ephemeral range; one of those could be gone
    by the time the server comes back, so this looks below that range. Raises OSError.
    """
    highest = _first_ephemeral() - 1
    if highest - LOWEST >= ATTEMPTS:
        chooser = random.SystemRandom()
        for _ in range(ATTEMPTS):
            port = chooser.randint(LOWEST, highest)
            if port not in taken and is_free(host, port) and _claim(port):
                return port
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _claim(port: int) -> bool:
    """Keep a port from other instances of this program between its choice and its use.

    A claim is an abstract Unix socket (unix(7)) named after the port: it ends with this process,
    whatever ends it. Where there are none, chance must do.
    """
    if port in _claims:
        return False
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0bursar-port-{port}")
    except OSError as error:
        claim.close()
        return error.errno != errno.EADDRINUSE
    _claims[port] = claim
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _first_ephemeral() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        return int(text.split()[0])
    except (OSError, ValueError, IndexError):
        return FALLBACK_EPHEMERAL
