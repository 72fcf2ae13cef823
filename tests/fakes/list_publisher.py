"""A web server that publishes one file, honestly or not."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PATH = "/prices.json"


class ListPublisher:
    """Serves `content` under `etag`; what a test sets says how it misbehaves.

    - `status`: answered instead of the file, with `headers`.
    - `cut`: the body ends after so many bytes of those that were announced.
    - `endless`: the body goes on and on, and its length is not announced;
      that of a `status`, too.
    - `silent`: nothing is answered until the server ends.
    """

    def __init__(self, content: bytes = b"{}") -> None:
        self.content = content
        self.etag = '"1"'
        self.status = 200
        self.headers: dict[str, str] = {}
        self.cut: int | None = None
        self.endless = False
        self.silent = False
        self.requests: list[Mapping[str, str]] = []
        """The headers of each request, with the path under "path"."""
        self._ended = threading.Event()
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.requests.append({**self.headers, "path": self.path})
                publisher._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"http://127.0.0.1:{self._server.server_port}{PATH}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self.silent:
            self._ended.wait()
            return
        if self.status != 200:
            handler.send_response(self.status)
            for name, value in self.headers.items():
                handler.send_header(name, value)
            if not self.endless:
                handler.send_header("Content-Length", "0")
            handler.end_headers()
            if self.endless:
                self._go_on(handler)
            return
        if self.etag and handler.headers.get("If-None-Match") == self.etag:
            handler.send_response(304)
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("ETag", self.etag)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        if self.endless:
            handler.end_headers()
            self._go_on(handler)
            return
        handler.send_header("Content-Length", str(len(self.content)))
        handler.end_headers()
        handler.wfile.write(self.content[: self.cut])

    def _go_on(self, handler: BaseHTTPRequestHandler) -> None:
        try:
            while not self._ended.is_set():
                handler.wfile.write(b" " * 65_536)
        except OSError:
            # The reader has had enough.
            return
