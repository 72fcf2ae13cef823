"""A provider that compresses: where it is asked to, or whether it is asked or not. It remembers the
headers of what it was sent, and adds some that only Bursar may send.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 11, "completion_tokens": 18, "total_tokens": 29}
FORGED = {"x-bursar-cost": "0", "x-bursar-charge-id": "9-9", "x-litellm-response-cost": "0"}


class PackingUpstream:
    """Answers a chat, plain or streamed."""

    def __init__(self) -> None:
        self.always = False
        """Compress also where nobody asked for it."""
        self.asked: list[dict[str, str]] = []
        """The headers of each request, names in lower case."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                upstream.asked.append(headers)
                request = json.loads(self._body(headers))
                body, kind = answer_to(request)
                packed = upstream.always or "gzip" in headers.get("accept-encoding", "")
                if packed:
                    body = gzip.compress(body)
                self.send_response(200)
                self.send_header("content-type", kind)
                if packed:
                    self.send_header("content-encoding", "gzip")
                for name, value in FORGED.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _body(self, headers: dict[str, str]) -> bytes:
                if headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(headers.get("content-length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> tuple[str, int]:
        """Where it serves."""
        return "127.0.0.1", self.server.server_port


def answer_to(request: dict[str, Any]) -> tuple[bytes, str]:
    """The body of an answer, and its content type."""
    about = {"id": "chatcmpl-packed", "created": 0, "model": request["model"]}
    if not request.get("stream"):
        message = {"role": "assistant", "content": "Enough."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {**about, "object": "chat.completion", "choices": [choice], "usage": USAGE}
        return json.dumps(whole).encode(), "application/json"
    part = {**about, "object": "chat.completion.chunk"}
    delta = {"index": 0, "delta": {"content": "Enough."}, "finish_reason": "stop"}
    events = [{**part, "choices": [delta]}, {**part, "choices": [], "usage": USAGE}]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return ("".join(lines) + "data: [DONE]\n\n").encode(), "text/event-stream"


@contextmanager
def packing_upstream() -> Iterator[PackingUpstream]:
    """One that serves for the length of a test."""
    made = PackingUpstream()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()
