"""Asks a control plane for what `bursar up` needs: an organization, its sidecars, the demo.

A program: `python -m bursar_cli.up.enrolment` reads what is wanted as JSON from standard input and
writes the secrets, old and new, as JSON to standard output. What exists is left as it is.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import msgspec

from bursar.client import AddressError, AsyncBursarClient, BursarError, new_request_id
from bursar.v1 import identity_pb2, sidecars_pb2
from bursar_cli.up import demo


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """What standard input says."""

    address: str
    admin_key: str
    organization: str
    demo: bool
    sidecars: list[str]
    sidecar_keys: dict[str, str]
    """Known already, by the sidecar's name."""
    app_keys: dict[str, str]
    """Known already, by the key's name."""


async def found(get: Callable[[Any], Awaitable[Any]], request: Any) -> Any | None:
    """What a Get answers; None if there is no such thing. Raises BursarError for all else."""
    try:
        return await get(request)
    except BursarError as error:
        if error.status is grpc.StatusCode.NOT_FOUND:
            return None
        raise


async def enrol(wanted: Wanted, client: AsyncBursarClient) -> None:
    """Make what is missing; `sidecar_keys` and `app_keys` of `wanted` are filled in."""
    organization = wanted.organization
    if not await found(
        client.organizations.GetOrganization,
        identity_pb2.GetOrganizationRequest(name=organization),
    ):
        await client.organizations.CreateOrganization(
            identity_pb2.CreateOrganizationRequest(
                organization=identity_pb2.Organization(name=organization, currency="USD"),
                request_id=new_request_id(),
            )
        )
    for name in wanted.sidecars:
        known = wanted.sidecar_keys.get(name, "")
        wanted.sidecar_keys[name] = await _sidecar_key(client, organization, name, known)
    if wanted.demo:
        await demo.make(client, organization, wanted.app_keys)


async def _sidecar_key(client: AsyncBursarClient, organization: str, name: str, known: str) -> str:
    """The sidecar's credential: the known one if the control plane knows it too."""
    full_name = f"sidecars/{name}"
    sidecar = await found(
        client.sidecars.GetSidecar,
        sidecars_pb2.GetSidecarRequest(organization=organization, name=full_name),
    )
    if sidecar is None:
        created = await client.sidecars.CreateSidecar(
            sidecars_pb2.CreateSidecarRequest(
                sidecar=sidecars_pb2.Sidecar(name=full_name, organization=organization),
                request_id=new_request_id(),
            )
        )
        return created.secret
    if known and known.startswith(sidecar.secret_prefix):
        return known
    rotated = await client.sidecars.RotateSidecar(
        sidecars_pb2.RotateSidecarRequest(organization=organization, name=full_name)
    )
    return rotated.secret


async def _run() -> None:
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    async with AsyncBursarClient(wanted.address, wanted.admin_key) as client:
        await enrol(wanted, client)
    made = {"sidecar_keys": wanted.sidecar_keys, "app_keys": wanted.app_keys}
    sys.stdout.buffer.write(msgspec.json.encode(made))


def main() -> None:
    """Run the program; a refusal is told in one line, with exit code 1."""
    try:
        asyncio.run(_run())
    except (AddressError, BursarError, msgspec.DecodeError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
