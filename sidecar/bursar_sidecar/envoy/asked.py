"""What a Check asks about: the app's request as Envoy tells it, made into ours. Pure.

`envoy/service/auth/v3/attribute_context.proto`, HttpRequest. Envoy sends the headers in one of two
ways (`encode_raw_headers`), the body as bytes or as text (`pack_as_bytes`), and a header of its own
that says whether it is all of it; it takes that header off what an app sends.
"""

import re
from typing import Any, Final

from bursar_sidecar.desk import Refusal
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.http_messages import Headers, Request
from bursar_sidecar.request_rules import has_dot_segments

PARTIAL: Final = b"x-envoy-auth-partial-body"
_METHOD: Final = re.compile(rb"[A-Z]{1,32}")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_JSON: Final = re.compile(rb"application/(\w+\+)?json\s*(;|$)", re.IGNORECASE)


class Asked:
    """One request, and what is known of its body."""

    __slots__ = ("is_partial", "is_text", "is_told", "length", "request")

    def __init__(self, http: Any, *, prefix: str = "", tags: tuple[str, ...] = ()) -> None:
        """`http` is an AttributeContext.HttpRequest; `prefix` and `tags` are the route's.

        Raises Refusal and DialectError.
        """
        headers = _headers(http)
        told = [value for name, value in headers if name == PARTIAL]
        self.is_told = bool(told)
        """Envoy said how much of the body it sends: it sends bodies at all."""
        body: bytes = http.raw_body
        self.is_text = bool(http.body) and not body
        """Envoy sent the body as text, with a "!" for each byte that is no UTF-8."""
        if self.is_text:
            body = http.body.encode()
            _check_readable(headers)
        self.length = _length(headers)
        """Of the whole body, as the app announced it; None where it did not."""
        self.is_partial = b"true" in told or (
            self.is_told and self.length is not None and len(body) < self.length
        )
        """It goes on behind what is here."""
        headers = [pair for pair in headers if pair[0] != PARTIAL]
        if tags:
            headers.append((b"x-bursar-tags", ",".join(tags).encode()))
        self.request = Request(
            _method(http.method),
            _target(http.path, prefix),
            headers,
            body,
            http_1_0=http.protocol == "HTTP/1.0",
        )

    def check_whole(self, most: int) -> None:
        """The body is here, all of it, and no larger than may be. Raises Refusal."""
        size = len(self.request.body)
        if self.is_partial:
            whole = "" if self.length is None else f" of {self.length}"
            raise Refusal(
                "body_too_large",
                f"Envoy handed on the first {size}{whole} bytes of the body, "
                "max_request_bytes of its ext_authz filter; what a call costs follows from all of "
                "it.",
            )
        if size > most:
            raise Refusal("body_too_large", f"The body has {size} bytes; at most {most} are taken.")
        if not self.is_told and self.length:
            raise Refusal(
                "envoy_misconfigured",
                "Envoy does not hand on bodies, from which it follows what a call costs; set "
                "with_request_body of its ext_authz filter.",
            )


def _headers(http: Any) -> Headers:
    """Names in lower case, as HTTP/2 has them; without the pseudo headers."""
    raw = http.header_map.headers
    if raw:
        pairs = [(one.key.encode(), one.raw_value or one.value.encode()) for one in raw]
    else:
        pairs = [(name.encode(), value.encode()) for name, value in http.headers.items()]
    return [(name.lower(), value) for name, value in pairs if not name.startswith(b":")]


def sent_as_text() -> Refusal:
    """Why a body that came as text is not taken."""
    return Refusal(
        "envoy_misconfigured",
        "Envoy sends bodies as text, which are not what the app sent where they are no UTF-8; set "
        "with_request_body.pack_as_bytes of its ext_authz filter to true. Without it only the "
        "strict tier takes bodies, and only JSON that is not compressed.",
    )


def _check_readable(headers: Headers) -> None:
    """A body that came as text may be what the app sent: JSON is UTF-8 (RFC 8259, 8.1). Raises
    Refusal."""
    kinds = [value for name, value in headers if name == b"content-type"]
    codings = [value for name, value in headers if name == b"content-encoding"]
    if any(not _JSON.match(kind) for kind in kinds) or set(codings) - {b"identity"}:
        raise sent_as_text()


def _length(headers: Headers) -> int | None:
    for name, value in headers:
        if name == b"content-length" and _LENGTH.fullmatch(value):
            return int(value)
    return None


def _method(method: str) -> bytes:
    found = method.encode()
    if not _METHOD.fullmatch(found):
        raise DialectError(f"The method is {method[:40]!r}; expected one such as POST.")
    return found


def _target(path: str, prefix: str) -> bytes:
    target = path.encode()
    if not target.startswith(b"/") or b"#" in target or has_dot_segments(target):
        # What we take for one path might be another one to the provider.
        raise DialectError("The path holds '.' or '..' or a fragment, or does not begin with '/'.")
    if not prefix:
        return target
    rest = target.removeprefix(prefix.encode())
    if len(rest) == len(target) or rest[:1] not in (b"/", b"?", b""):
        raise Refusal(
            "envoy_misconfigured",
            f"Envoy's context_extensions: bursar.prefix is {prefix!r}, and the path does not begin "
            "with it.",
        )
    return rest if rest.startswith(b"/") else b"/" + rest
