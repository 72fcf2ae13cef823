"""The sockets that workers listen on, opened once by their supervisor.

A unix socket is one, which all workers take connections from. A TCP port is one socket for each
worker's life, so that the kernel spreads connections over those that listen, and none to one that
died.
"""

import socket

from bursar_sidecar.listening import bound, inode_of, removed, shown
from bursar_sidecar.setting_checks import UNIX
from bursar_sidecar.settings import Settings


class Sockets:
    """Of the addresses where apps call."""

    def __init__(self, settings: Settings) -> None:
        """Opens them. Raises OSError when an address is taken."""
        self._shared: dict[str, socket.socket] = {}
        self._reserved: dict[str, tuple[socket.socket, str]] = {}
        self._inodes: dict[str, int] = {}
        modes = {settings.http_address: settings.socket_mode}
        modes |= {
            listener.address: listener.socket_mode or settings.socket_mode
            for listener in settings.listeners
        }
        try:
            for address, mode in modes.items():
                self._open(address, mode)
        except OSError:
            self.close()
            raise

    def _open(self, address: str, mode: str) -> None:
        if address.startswith(UNIX):
            self._shared[address] = bound(address, mode=mode)
            self._inodes[address] = inode_of(address)
            return
        # Sockets that share a port do not notice another sidecar that does: this one would.
        with bound(address) as alone:
            real = shown(alone, address)
        self._reserved[address] = (bound(real, share=True), real)

    def for_one_life(self) -> dict[str, socket.socket]:
        """For a worker about to start, by address as the settings have it; not closed by `close`
        where they are the worker's alone: see `release`."""
        own = {address: bound(real, share=True) for address, (_, real) in self._reserved.items()}
        return {**own, **self._shared}

    def release(self, given: dict[str, socket.socket]) -> None:
        """The worker has its sockets: those that are its alone must not outlive it here."""
        for address, each in given.items():
            if address not in self._shared:
                each.close()

    def where(self, address: str) -> str:
        """The real address."""
        return self._reserved[address][1] if address in self._reserved else address

    def stop_listening(self) -> None:
        """No new call is to come: unix sockets go, so that a new start finds their path free."""
        for address, inode in self._inodes.items():
            removed(address, inode)
        self._inodes.clear()

    def close(self) -> None:
        """All of them."""
        self.stop_listening()
        for each in (*self._shared.values(), *(made for made, _ in self._reserved.values())):
            each.close()
