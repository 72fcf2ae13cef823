"""Who may call: the admin key for everything, but for what authenticates itself or is harmless."""

from collections.abc import Iterable, Sequence

from bursar_server.credentials import same_hash, secret_hash
from bursar_server.errors import BursarError, unauthenticated

# The session stream knows sidecars by their own credentials. Health and reflection tell nothing
# that the published contract doesn't, and probes of orchestrators can't hold a key.
OPEN_METHODS = ("/bursar.v1.AllowanceService/Session",)
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

_EXPECTED = 'metadata "authorization: Bearer ba-..." with the admin key'
_OTHERS = {"bk-": "the key of an app", "bs-": "the credential of a sidecar"}

Metadata = Iterable[tuple[str, str | bytes]]


class AdminKeys:
    """The admin keys that are accepted, as hashes."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._hashes = tuple(hashes)

    def admit(self, method: str, metadata: Metadata) -> None:
        """Raise UNAUTHENTICATED unless `method` ("/package.Service/Method") may be called."""
        if method in OPEN_METHODS or method.startswith(OPEN_SERVICES):
            return
        fault = self._fault([value for key, value in metadata if key == "authorization"])
        if fault is not None:
            raise fault

    def _fault(self, values: Sequence[str | bytes]) -> BursarError | None:
        if len(values) != 1:
            found = "none" if not values else f"{len(values)} of them"
            return unauthenticated(f"expected {_EXPECTED}, got {found}", "ADMIN_KEY_MISSING")
        value = values[0] if isinstance(values[0], str) else values[0].decode("latin-1")
        scheme, _, secret = value.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            return unauthenticated(f"expected {_EXPECTED}", "ADMIN_KEY_MISSING")
        presented = secret_hash(secret)
        # All are compared, so that the time does not tell which of them is close.
        if sum(same_hash(presented, accepted) for accepted in self._hashes):
            return None
        if other := _OTHERS.get(secret[:3]):
            return unauthenticated(f"this is {other}, expected {_EXPECTED}", "ADMIN_KEY_WRONG_KIND")
        return unauthenticated("the admin key is not the one of this server", "ADMIN_KEY_UNKNOWN")
