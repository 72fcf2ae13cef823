"""The type of the second argument of every rpc."""

from typing import Any, TypeAlias

import grpc.aio

__all__ = ["Context"]

# Generic in its stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
