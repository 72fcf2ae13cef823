"""Whether a part serves: one HTTP request, asked as often as needed."""

import asyncio
import contextlib

PROBE_S = 2.0  # an answer that takes longer is no answer
MAX_STATUS_LINE_BYTES = 4_096


async def answers(host: str, port: int, path: str) -> bool:
    """Whether `GET path` is answered with 200."""
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(host, port, limit=MAX_STATUS_LINE_BYTES)
            try:
                request = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n"
                writer.write(request.encode())
                status = (await reader.readline()).split()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False
    return len(status) >= 2 and status[1] == b"200"
