"""What OpenAI keeps for an account and bills nothing for: files, batches, lists of jobs.

The contents of files are not kept: every file holds `{}`.
"""

import re
import time
from typing import Any, Final

import msgspec

MAX_KEPT: Final = 1_000  # of each kind; the oldest goes
_PATH: Final = re.compile(rb"/(?:v1|openai/v1|openai)/(files|batches)(?:/([A-Za-z0-9_-]+))?(/\w+)?")
_JOBS: Final = b"/v1/fine_tuning/jobs"


class Stored:
    """The files and batches of one provider."""

    def __init__(self) -> None:
        self._kept: dict[bytes, dict[str, dict[str, Any]]] = {b"files": {}, b"batches": {}}
        self._made = 0

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[int, bytes] | None:
        """Status and body; None for a path that is not one of these."""
        if path == _JOBS and method == b"GET":
            return 200, msgspec.json.encode({"object": "list", "data": [], "has_more": False})
        matched = _PATH.fullmatch(path)
        if matched is None:
            return None
        kind, named, under = matched[1], (matched[2] or b"").decode(), matched[3]
        kept = self._kept[kind]
        if not named:
            return 200, msgspec.json.encode(
                self._create(kind, body)
                if method == b"POST"
                else {"object": "list", "data": list(kept.values()), "has_more": False}
            )
        if named not in kept:
            return 404, b'{"error":{"message":"No such object.","type":"invalid_request_error"}}'
        if under == b"/content":
            return 200, b"{}"
        if method == b"DELETE":
            del kept[named]
            return 200, msgspec.json.encode({"id": named, "object": "file", "deleted": True})
        return 200, msgspec.json.encode(kept[named])

    def _create(self, kind: bytes, body: bytes) -> dict[str, Any]:
        self._made += 1
        now = int(time.time())
        if kind == b"files":
            made: dict[str, Any] = {
                "id": f"file-{self._made}",
                "object": "file",
                "bytes": len(body),
                "created_at": now,
                "filename": "calls.jsonl",
                "purpose": "batch",
                "status": "processed",
            }
        else:
            asked = msgspec.json.decode(body, type=dict[str, Any])
            made = {
                "id": f"batch_{self._made}",
                "object": "batch",
                "endpoint": asked.get("endpoint", ""),
                "input_file_id": asked.get("input_file_id", ""),
                "completion_window": asked.get("completion_window", "24h"),
                "status": "validating",
                "created_at": now,
            }
        kept = self._kept[kind]
        kept[made["id"]] = made
        if len(kept) > MAX_KEPT:
            del kept[next(iter(kept))]
        return made
