"""What one peer may hold of a server, and for how long."""

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what one peer may hold."""

    max_head_bytes: int = 64 * 1024
    """Request line and headers; above it 431."""
    max_headers: int = 200
    max_body_bytes: int = 50 * 1024 * 1024
    """Above it 413."""
    max_held_bytes: int = 512 * 1024 * 1024
    """Bodies of all requests that are being read or answered together; above it 503."""
    max_connections: int = 10_000
    """Above it new connections get 503: file descriptors are finite."""
    keep_alive_s: float = 75.0
    """Idle between requests; longer than the usual 60 s of clients' pools, so that they close."""
    request_stall_s: float = 30.0
    """A request begun must bring bytes at least this often."""
    request_total_s: float = 300.0
    """A request begun must be whole by then."""
    write_stall_s: float = 120.0
    """An app that takes no bytes of its answer for so long counts as hung up."""
    linger_s: float = 2.0
    """After refusing a request half read, how long its rest is read and dropped, so that the peer
    gets to see the answer instead of a reset."""
