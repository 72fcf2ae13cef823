"""The rpcs on contracts."""

import re
from datetime import datetime
from typing import Final

from msgspec import structs

from bursar.pricing.contracts import MAX_CONTRACTS
from bursar.v1 import contracts_pb2, contracts_pb2_grpc
from bursar.wire import WireError, contract_from_proto, contract_to_proto
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool, transaction
from bursar_server.errors import failed_precondition, invalid, not_found
from bursar_server.identity.store import record_change, resolve_organization
from bursar_server.names import validate_text
from bursar_server.prices import contract_store, rules, store
from bursar_server.prices.contract_store import ContractRecord
from bursar_server.prices.rules import PriceFault
from bursar_server.request_ids import content_hash, remember, remembered
from bursar_server.times import instant, timestamp

# Who decides, until there are roles: the holder of the admin key.
ADMIN: Final = "admin"
MOST_CHARACTERS_OF_A_REASON: Final = 500
_NAME: Final = re.compile(r"contracts/([1-9][0-9]{0,17})", re.ASCII)


class PriceContractService(contracts_pb2_grpc.PriceContractServiceServicer):
    """Contracts of an organization, and of the platform."""

    def __init__(self, pool: Pool, feed: ChangeFeed) -> None:
        self._pool = pool
        self._feed = feed

    async def SetPriceContract(
        self, request: contracts_pb2.SetPriceContractRequest, context: object
    ) -> contracts_pb2.PriceContract:
        """Sets a contract; sidecars know within a second."""
        reason = validate_text(
            request.contract.reason, "contract.reason", MOST_CHARACTERS_OF_A_REASON
        )
        try:
            asked = contract_from_proto(request.contract, 0)
        except WireError as error:
            raise invalid(f"contract.{error.field}", error.value, error.expected) from error
        content = content_hash(request)
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            memory = (organization.id, request.request_id, "SetPriceContract", content)
            known = await remembered(connection, *memory)
            if known is not None:
                number = _number(known)
                record = await contract_store.contract_of_number(
                    connection, organization.id, number
                )
                assert record is not None  # it is on record that it was made
                return message_of(record)
            number = await store.raise_overlay_version(connection, organization.id)
            if await contract_store.count_contracts(connection, organization.id) >= MAX_CONTRACTS:
                raise failed_precondition(
                    "TOO_MANY_CONTRACTS",
                    f"{organization.name} has {MAX_CONTRACTS} contracts: take one back first",
                    {"most": str(MAX_CONTRACTS)},
                )
            now = await store.time_of_change(connection)
            try:
                rules.check_period(asked.effective_at, asked.expires_at, now, "contract.")
            except PriceFault as fault:
                raise invalid(fault.field, fault.value, fault.expected) from fault
            if asked.call_fee is None:
                asked = structs.replace(asked, currency="")
            contract_id = await contract_store.insert_contract(
                connection,
                organization.id,
                number,
                asked,
                since=asked.effective_at or now,
                reason=reason,
                actor=ADMIN,
                now=now,
            )
            await remember(connection, *memory, f"contracts/{number}")
            record = await contract_store.contract_of_number(connection, organization.id, number)
            change = Change(organization.id, ChangeKind.PRICES, contract_id)
            await record_change(connection, change)
        self._feed.publish(change)
        assert record is not None  # it was inserted just now
        return message_of(record)

    async def ListPriceContracts(
        self, request: contracts_pb2.ListPriceContractsRequest, context: object
    ) -> contracts_pb2.ListPriceContractsResponse:
        """The contracts of an organization and of the platform."""
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            records = await contract_store.contracts(
                connection, organization.id, ended=request.include_ended
            )
        return contracts_pb2.ListPriceContractsResponse(
            contracts=[message_of(record) for record in records]
        )

    async def DeletePriceContract(
        self, request: contracts_pb2.DeletePriceContractRequest, context: object
    ) -> contracts_pb2.DeletePriceContractResponse:
        """Takes a contract back."""
        number = _number(request.name)
        since: datetime | None = None
        if request.HasField("effective_time"):
            since = instant(request.effective_time, "effective_time")
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            await store.raise_overlay_version(connection, organization.id)
            now = await store.time_of_change(connection)
            try:
                rules.check_period(since, None, now, "")
            except PriceFault as fault:
                raise invalid(fault.field, fault.value, fault.expected) from fault
            ended = await contract_store.end_contract(
                connection, organization.id, number, since or now, now
            )
            if not ended:
                raise not_found("contract", request.name)
            change = Change(organization.id, ChangeKind.PRICES, ended[0])
            await record_change(connection, change)
        self._feed.publish(change)
        return contracts_pb2.DeletePriceContractResponse()


def message_of(record: ContractRecord) -> contracts_pb2.PriceContract:
    """A contract as people are told it."""
    message = contract_to_proto(record.contract)
    message.name = f"contracts/{record.number}"
    message.organization = f"organizations/{record.organization_slug}"
    message.record_time.CopyFrom(timestamp(record.created_at))
    message.reason = record.reason
    return message


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise invalid("name", name, 'the name of a contract, such as "contracts/17"')
    return int(match[1])
