"""Where the local gRPC service listens."""

from typing import Final

from bursar_sidecar.grpc_listening import HEALTH_SERVICE, GrpcListening, Place
from bursar_sidecar.local_grpc.lazy_reflection import LazyReflection
from bursar_sidecar.local_grpc.service import SERVICE_NAME, SpendService
from bursar_sidecar.settings import Settings

MOST_CONCURRENT_RPCS: Final = 4_096
"""An app has a stream, or an rpc for each of its calls. Past this, RESOURCE_EXHAUSTED."""


class SpendServer:
    """One server and its life: start, serve, retire, stop."""

    def __init__(self, settings: Settings, service: SpendService) -> None:
        place = Place(
            "grpc_address",
            settings.grpc_address,
            settings.socket_mode,
            settings.grpc_tls_cert,
            settings.grpc_tls_key,
        )
        self._listening = GrpcListening(place, most_concurrent=MOST_CONCURRENT_RPCS)
        service.register(self._listening.server)
        reflection = LazyReflection([SERVICE_NAME, HEALTH_SERVICE])
        self._listening.server.add_generic_rpc_handlers((reflection,))

    @property
    def address(self) -> str:
        """Where, with the real port, once started; "" before."""
        return self._listening.address

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken or a certificate can't be read."""
        await self._listening.start((SERVICE_NAME,))

    async def retire(self) -> None:
        """Tell health checks to send no more; last words are still taken."""
        await self._listening.retire()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let rpcs end for so long, then cancel them."""
        await self._listening.stop(grace_s)
