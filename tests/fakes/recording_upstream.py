"""An upstream that records every request as it came, and answers each the same."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

ANSWER = b'{"id":"x","model":"gpt-4o-mini","usage":{"prompt_tokens":1,"completion_tokens":1}}'


class Taken(NamedTuple):
    """One request."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    """Names in lower case."""
    body: bytes

    def header(self, name: str) -> str:
        """All values of a header, "" where there is none."""
        return ", ".join(value for key, value in self.headers if key == name)


class RecordingUpstream:
    """Answers with `status`."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.status = 200
        self.says: dict[str, str] = {}
        """More headers of its answers."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                """Any method."""
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if self.headers.get("transfer-encoding") == "chunked":
                    body = self._chunks()
                headers = [(name.lower(), value) for name, value in self.headers.items()]
                upstream.taken.append(Taken(self.command, self.path, headers, body))
                self.send_response(upstream.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(ANSWER)))
                for name, value in upstream.says.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(ANSWER)

            do_GET = do_POST = do_DELETE = do

            def _chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def start(self) -> None:
        """Take requests."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def recording_upstream() -> Iterator[RecordingUpstream]:
    """For the length of a test."""
    made = RecordingUpstream()
    made.start()
    try:
        yield made
    finally:
        made.stop()
