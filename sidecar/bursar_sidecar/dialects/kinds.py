"""Kinds of servers: which dialects they speak, and what differs where several speak the same.

A provider's `kind` in the settings is a name in `KINDS`; adding a server that speaks a known
dialect is a line here. docs/dialects.md has the table for people.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

OPENAI: Final = frozenset({"openai"})


class Kind(msgspec.Struct, frozen=True):
    """What is the same for all servers of a kind."""

    name: str
    dialects: frozenset[str] = OPENAI
    """Names of the dialects that they speak."""
    base_url: str = ""
    """Where the provider itself serves, up to and including the version; "" where everybody runs
    their own."""
    paths_begin: tuple[str, ...] = ()
    """What the dialect's own paths begin with, so that it is taken off the end of a base URL."""
    credential: str = "authorization: Bearer "
    """The header that carries the provider's credential, up to it."""
    prices: str = ""
    """The provider's name in price lists; "" for the kind's own."""
    limit_field: str = "max_tokens"
    """By which field an output limit is set where a chat request has none. All servers of OpenAI's
    dialect know `max_tokens`; OpenAI refuses it for models that reason."""
    asks_usage: bool = True
    """Whether a stream tells its usage only to who asks for it with `stream_options`; False where
    it is told anyway, or where the field is refused."""
    readers: Mapping[str, str] = MappingProxyType({})
    """By endpoint: the reader of `bursar.usage` for answers that say more than OpenAI's do."""
    free: frozenset[str] = frozenset()
    """Endpoints that bill nothing, by the provider's own documents."""
    deployments: bool = False
    """Azure's paths: `/openai/deployments/NAME/...` and `/openai/v1/...`."""

    @property
    def listed(self) -> str:
        """The provider's name in price lists."""
        return self.prices or self.name


class Server(msgspec.Struct, frozen=True):
    """One configured server, as a dialect sees it."""

    kind: Kind
    limit_field: str
    asks_usage: bool
    api_version: str = ""
    """Azure's, where the deployments' own paths are to be used."""


def _chat(name: str) -> Mapping[str, str]:
    return MappingProxyType({"chat": name})


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                "openai",
                base_url="https://api.openai.com/v1",
                limit_field="max_completion_tokens",
                # Moderation guide: the endpoint is free to use.
                free=frozenset({"moderations"}),
            ),
            Kind(
                "azure",
                paths_begin=("/v1", "/openai"),
                credential="api-key: ",
                limit_field="max_completion_tokens",
                deployments=True,
            ),
            # These two's own libraries are given the address without a version.
            Kind(
                "anthropic",
                frozenset({"anthropic"}),
                base_url="https://api.anthropic.com",
                paths_begin=("/v1",),
                credential="x-api-key: ",
            ),
            Kind(
                "gemini",
                frozenset({"gemini"}),
                base_url="https://generativelanguage.googleapis.com",
                paths_begin=("/v1beta", "/v1"),
                credential="x-goog-api-key: ",
            ),
            # Any server of the dialect that is not named here.
            Kind("compatible"),
            Kind("vllm", prices="hosted_vllm"),
            Kind("ollama", base_url="http://127.0.0.1:11434/v1"),
            Kind(
                "openrouter",
                base_url="https://openrouter.ai/api/v1",
                asks_usage=False,
                readers=MappingProxyType(
                    {
                        "chat": "openrouter_chat",
                        "completions": "openrouter_completions",
                        "responses": "openrouter_responses",
                    }
                ),
            ),
            # Refuses fields that it does not know, `stream_options` and `max_completion_tokens`
            # among them; usage is in the last chunk of every stream.
            Kind(
                "mistral",
                base_url="https://api.mistral.ai/v1",
                asks_usage=False,
                readers=MappingProxyType(
                    {"chat": "mistral_chat", "embeddings": "mistral_embeddings"}
                ),
            ),
            Kind(
                "deepseek",
                base_url="https://api.deepseek.com",
                readers=MappingProxyType(
                    {"chat": "deepseek_chat", "completions": "deepseek_completions"}
                ),
            ),
            Kind(
                "groq",
                base_url="https://api.groq.com/openai/v1",
                limit_field="max_completion_tokens",
                asks_usage=False,
                readers=_chat("groq_chat"),
            ),
            Kind(
                "together",
                base_url="https://api.together.xyz/v1",
                prices="together_ai",
            ),
            Kind(
                "fireworks",
                base_url="https://api.fireworks.ai/inference/v1",
                prices="fireworks_ai",
            ),
            Kind(
                "xai",
                base_url="https://api.x.ai/v1",
                limit_field="max_completion_tokens",
                asks_usage=False,
                readers=MappingProxyType(
                    {
                        "chat": "xai_chat",
                        "responses": "xai_responses",
                        "images/generations": "xai_images",
                    }
                ),
            ),
            Kind(
                "perplexity",
                base_url="https://api.perplexity.ai",
                asks_usage=False,
                readers=_chat("perplexity_chat"),
            ),
            Kind(
                "cerebras",
                base_url="https://api.cerebras.ai/v1",
                limit_field="max_completion_tokens",
            ),
            Kind("deepinfra", base_url="https://api.deepinfra.com/v1/openai"),
            Kind("moonshot", base_url="https://api.moonshot.ai/v1"),
            Kind(
                "dashscope",
                base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
                readers=_chat("dashscope_chat"),
            ),
        )
    }
)
