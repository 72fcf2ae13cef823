"""A whole installation behind a real Envoy, as it ships: apps call Envoy, which asks the sidecar,
and forwards to the simulated provider.

Every part is a process that the test starts, kills and starts again by itself (`site`); nothing is
mended by itself.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai

from bursar.v1 import ledger_pb2
from tests.fakes.envoy import Config, Envoy, before, endpoint_of, envoy, shipped
from tests.fakes.provider_bill import MODEL, Entries, entries_of
from tests.fakes.simulated_provider import told
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.stack import ServedCall
from tests.fakes.until import DEADLINE_S, until

OUTPUT = 100
ASKED: Any = [{"role": "user", "content": "How much is left?"}]
CLAUDE = "claude-haiku-4-5"

Change = Callable[[Config], None]


class Marked:
    """The headers of one call, by which it is known to the provider and in the ledger."""

    def __init__(self, **behaviour: Any) -> None:
        self.id = str(uuid.uuid4())
        self.headers = {
            "x-simulate-call-id": self.id,
            "x-bursar-tags": f"call:{self.id}",
            "x-simulate": json.dumps(behaviour),
        }


class EnvoySite:
    """One running installation, and the apps' side of it."""

    def __init__(self, made: Site, front: Envoy) -> None:
        self.site = made
        self.envoy = front

    @property
    def sidecar(self) -> Sidecar:
        """The one that Envoy asks."""
        return self.site.sidecars["one"]

    def openai(self, secret: str, retries: int = 0) -> openai.OpenAI:
        """An app with OpenAI's library."""
        return openai.OpenAI(
            base_url=f"{self.envoy.url}/v1",
            api_key=secret,
            max_retries=retries,
            timeout=DEADLINE_S,
        )

    def anthropic(self, secret: str, retries: int = 0) -> anthropic.Anthropic:
        """An app with Anthropic's."""
        return anthropic.Anthropic(
            base_url=self.envoy.url, api_key=secret, max_retries=retries, timeout=DEADLINE_S
        )

    def key(self, limit_nanos: int | None = None) -> tuple[str, str]:
        """A key, with a budget of its own or without: (name, secret)."""
        name, secret = self.site.make_key()
        if limit_nanos is not None:
            self.site.make_budget(name, limit_nanos)
        return name, secret

    def served(self, *calls: Marked) -> dict[str, ServedCall]:
        """What the provider served of these calls (of all, if none is named)."""
        found = self.site.served()
        wanted = {call.id for call in calls} or found.keys()
        return {id: call for id, call in found.items() if id in wanted}

    def entries(self, name: str) -> Entries:
        """What a key was charged, by call id."""
        return entries_of(self.site.admin, name)

    def entry(self, name: str, call: Marked) -> ledger_pb2.Entry:
        """The one entry of a call, once it is posted."""
        found = until(lambda: self.entries(name).get(call.id), f"call {call.id} is posted")
        assert len(found) == 1, found
        return found[0]

    def in_flight(self) -> int:
        """Calls that the provider is answering."""
        return int(told(self.site.provider_url, "totals")["in_flight"])


def ask(app: openai.OpenAI, call: Marked, **fields: Any) -> Any:
    """One chat, not read yet."""
    return app.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=ASKED,
        extra_headers=call.headers,
        **{"max_tokens": OUTPUT, **fields},
    )


@contextmanager
def envoy_site(
    directory: Path,
    tier: str = "strict",
    change: Change | None = None,
    *,
    address: str = "",
    **settings: str,
) -> Iterator[EnvoySite]:
    """A whole installation for the length of a test; `change` alters what ships, `settings` are
    variables of the sidecar's environment, `address` is where it serves Envoy."""
    with site(directory, sidecars=("one",)) as made:
        # A socket keeps its place when the sidecar is started again.
        address = address or f"unix:{directory}/e.sock"
        made.sidecars["one"].tell(BURSAR_SIDECAR_ENVOY_ADDRESS=address, **settings)
        made.start_sidecars()
        config = before(
            shipped(tier),
            sidecar=endpoint_of(made.sidecars["one"].said["envoy"]),
            provider=endpoint_of(made.provider_url),
        )
        if change is not None:
            change(config)
        with envoy(directory, config) as front:
            yield EnvoySite(made, front)
