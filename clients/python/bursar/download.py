"""One file over http or https, bounded in size and time: price lists, exchange rates.

Nothing here is called unless somebody names an address; the library itself never connects anywhere.
Blocking: a program with an event loop calls it in a thread.
"""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import IO, Final
from urllib.parse import unquote, urlsplit, urlunsplit

MAX_REDIRECTS: Final = 3
# Of one wait: to connect, or for the next bytes.
SOCKET_TIMEOUT_S: Final = 10.0
DEFAULT_TIMEOUT_S: Final = 60.0
CHUNK_BYTES: Final = 64 * 1024
MAX_ETAG_CHARACTERS: Final = 256
USER_AGENT: Final = "bursar"

_NOT_MODIFIED: Final = 304


class DownloadError(Exception):
    """The file could not be had. `retriable`: asking again later may help."""

    def __init__(self, message: str, *, retriable: bool = True) -> None:
        super().__init__(message)
        self.retriable = retriable


@dataclass(frozen=True, slots=True)
class Download:
    """What an address answered: `data` is None where it still has the content of `etag`."""

    data: bytes | None
    etag: str


def check_url(url: str) -> None:
    """Raise DownloadError unless `url` is one that `download` would ask."""
    shown = shown_url(url)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - the property raises for what is no port
    except ValueError as error:
        raise DownloadError(f"{shown} is no address: {error}", retriable=False) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"{shown} is not accepted; expected http(s)://...", retriable=False)
    if any(character.isspace() or not character.isprintable() for character in url):
        raise DownloadError(f"{shown} has spaces; expected none", retriable=False)


def shown_url(url: str) -> str:
    """The address as it may be shown: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[:300]


def download(
    url: str,
    *,
    most_bytes: int,
    etag: str = "",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> Download:
    """The file at `url`, at most `most_bytes` long, within `timeout_s` in all.

    With the `etag` of an earlier answer, one that has not changed is not sent again. The proxies
    that the environment names are used. Raises DownloadError.
    """
    check_url(url)
    deadline = monotonic() + timeout_s
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if etag:
        headers["If-None-Match"] = etag
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    shown = shown_url(url)
    try:
        request = _request(url, headers)
        with opener.open(request, timeout=min(SOCKET_TIMEOUT_S, timeout_s)) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"{shown} answered compressed, which was not asked for")
            data = _read(response, shown, most_bytes, deadline, monotonic)
            return Download(data, _etag(response.headers))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _NOT_MODIFIED and etag:
            return Download(None, etag)
        gone = 400 <= error.code < 500 and error.code not in (408, 425, 429)
        raise DownloadError(f"{shown} answered {error.code}", retriable=not gone) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DownloadError(f"{shown} can't be read: {reason!s:.200}") from error


def _request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    """User and password of the address go to it alone, not to where it leads."""
    parts = urlsplit(url)
    caller, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=headers)
    if at:
        name, _, password = caller.partition(":")
        told = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {told}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Few, and only to where `download` would go itself."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        # What came with the redirect is nothing that was asked for, and has no end that is known:
        # urllib would read all of it.
        fp.close()
        check_url(newurl)
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise DownloadError(
                f"{shown_url(req.full_url)} leads from https to http", retriable=False
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]  # headers are a Message of the same kind


def _read(
    response: http.client.HTTPResponse,
    shown: str,
    most_bytes: int,
    deadline: float,
    monotonic: Callable[[], float],
) -> bytes:
    """The body, piece by piece: neither its length nor its pace is believed."""
    data = bytearray()
    while True:
        piece = response.read1(CHUNK_BYTES)
        if not piece:
            break
        data += piece
        if len(data) > most_bytes:
            raise DownloadError(f"{shown} has more than {most_bytes} bytes", retriable=False)
        if monotonic() > deadline:
            raise DownloadError(f"{shown} takes too long: {len(data)} bytes so far")
    if response.length:
        raise DownloadError(f"{shown} ended {response.length} bytes too early")
    return bytes(data)


def _etag(headers: Message) -> str:
    """The name of the content, where it is one that can be sent back."""
    text = headers.get("ETag", "")
    ok = len(text) <= MAX_ETAG_CHARACTERS and text.isascii() and text.isprintable()
    return text if ok else ""
