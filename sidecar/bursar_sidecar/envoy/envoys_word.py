"""What Envoy says of an answer: whether the provider gave it, and whether the call ever left.

Envoy answers by itself where it has no route, no connection or no patience, and shows such answers
to ext_proc like any other. Told apart by the attributes that `response_attributes` has to name;
their meaning: https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/advanced/attributes.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bursar_sidecar.http_messages import Headers

ATTRIBUTES: Final = ("response.code_details", "response.flags", "upstream.request_attempt_count")
"""What `response_attributes` has to name."""
_NAMESPACE: Final = "envoy.filters.http.ext_proc"
_BY_PROVIDER: Final = "via_upstream"
"""`ResponseCodeDetails::ViaUpstream` of `envoy/stream_info/stream_info.h`."""
_UPSTREAM_TIME: Final = b"x-envoy-upstream-service-time"
"""Written by Envoy's router on answers that came from a provider, unless that is switched off."""

# Bits of `CoreResponseFlag` in `envoy/stream_info/stream_info.h`.
_TIMED_OUT: Final = 0x4
_NEVER_SENT: Final = (
    0x2  # UH: no healthy provider
    | 0x20  # UF: no connection to it came about
    | 0x80  # UO: too many wait for one
    | 0x100  # NR: no route
    | 0x1000000  # NC: no cluster
    | 0x4000000  # DF: its name is not known
)


class Word(NamedTuple):
    """About one answer."""

    by_provider: bool
    """The provider gave it. Where nothing is told of that, an answer that is no error is taken for
    the provider's; an error is not, because it might tell of a call that was sent and lost."""
    never_sent: bool
    """It is proven that no byte of the call went to a provider."""
    timed_out: bool
    attempts: int
    """How often the call was sent, or tried to be; 0 where that is not told."""
    details: str
    """Envoy's own words for why it answered so; "" where not told."""

    @property
    def by_router(self) -> bool:
        """Envoy tried to reach the provider; else another filter or the route gave the answer."""
        return self.attempts > 0 or not self.details


def word_of(attributes: Mapping[str, Any], status: int, headers: Headers) -> Word:
    """`attributes` of the message that brought the answer's headers; their values are
    `google.protobuf.Struct`."""
    told = attributes[_NAMESPACE].fields if _NAMESPACE in attributes else {}
    details = told["response.code_details"].string_value if "response.code_details" in told else ""
    flags = _number(told, "response.flags")
    attempts = _number(told, "upstream.request_attempt_count")
    if details:
        by_provider = details == _BY_PROVIDER
    else:
        by_provider = status < 300 or any(name == _UPSTREAM_TIME for name, _ in headers)
    told_of_attempts = "upstream.request_attempt_count" in told
    # With a second attempt the flags are those of the last, and say nothing of the first.
    never_sent = told_of_attempts and (
        attempts == 0 or (attempts == 1 and bool(flags & _NEVER_SENT))
    )
    never_sent = never_sent and bool(details) and not by_provider
    return Word(by_provider, never_sent, bool(flags & _TIMED_OUT), attempts, details)


def _number(told: Mapping[str, Any], name: str) -> int:
    return int(told[name].number_value) if name in told else 0
