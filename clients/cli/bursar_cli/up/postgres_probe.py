"""Asks a Postgres server whether it takes connections: the first step of a login, no driver."""

import socket
import struct

PROTOCOL_3_0 = 196_608
PROBE_SECONDS = 2.0  # a server that takes longer to greet is not ready


def accepts_connections(host: str, port: int, user: str, database: str) -> bool:
    """Whether the server goes as far as asking for a password.

    While it starts, recovers or stops it answers with an error instead.
    """
    fields = b"user\0%s\0database\0%s\0\0" % (user.encode(), database.encode())
    hello = struct.pack("!ii", 8 + len(fields), PROTOCOL_3_0) + fields
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection:
            connection.sendall(hello)
            # All that was sent is read, so that closing leaves no error in the server's log.
            return connection.recv(4_096)[:1] == b"R"
    except OSError:
        return False
