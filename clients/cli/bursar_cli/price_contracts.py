"""`bursar price contract`: discounts, margins and fees. A noun below `price`."""

from datetime import UTC
from decimal import Decimal
from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.v1 import contracts_pb2
from bursar.wire import format_decimal
from bursar_cli import typed
from bursar_cli.cells import Column, when_set
from bursar_cli.rates import factor, fee, percent_text
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, noun, verb

app = noun("price contract", "Contracts: discounts, margins and fees on the prices of the lists.")

ONE: Final = Decimal(1)


def _discount(contract: contracts_pb2.PriceContract) -> str:
    text = contract.discount_factor
    return percent_text(ONE - Decimal(text)) if text else ""


def _margin(contract: contracts_pb2.PriceContract) -> str:
    text = contract.margin_factor
    return percent_text(Decimal(text) - ONE) if text else ""


def _fee(contract: contracts_pb2.PriceContract) -> str:
    return f"{contract.call_fee} {contract.currency}" if contract.call_fee else ""


CONTRACTS: Final = (
    Column("Name", lambda each: each.name),
    Column("Organization", lambda each: each.organization),
    Column("Provider", lambda each: each.provider),
    Column("Model", lambda each: each.model),
    Column("Discount", _discount),
    Column("Margin", _margin),
    Column("Fee a call", _fee),
    Column("From", lambda each: when_set(each, "effective_time")),
    Column("Until", lambda each: when_set(each, "expire_time")),
    Column("Reason", lambda each: each.reason),
    Column("Version", lambda each: each.version, wide=True),
    Column("Recorded", lambda each: when_set(each, "record_time"), wide=True),
)

Platform = Annotated[bool, typer.Option("--platform", help="For all organizations.")]


@verb(app, "set")
def set_contract(
    session: Session,
    provider: Annotated[str, typer.Option(metavar="GLOB", help="openai; * is any.")] = "*",
    model: Annotated[
        str, typer.Option(metavar="GLOB", help="gpt-4o*, as price lists name it; * is any.")
    ] = "*",
    discount: Annotated[
        str, typer.Option(metavar="PERCENT", help="10%: off every rate.", show_default=False)
    ] = "",
    margin: Annotated[
        str,
        typer.Option(
            metavar="PERCENT", help="15%: on every rate, after the discount.", show_default=False
        ),
    ] = "",
    call_fee: Annotated[
        str,
        typer.Option(
            "--fee", metavar="AMOUNT", help="0.001 or 0.001EUR: for each call.", show_default=False
        ),
    ] = "",
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="WHEN", help="Past or to come; else from now on.", show_default=False
        ),
    ] = "",
    until: Annotated[
        str, typer.Option(metavar="WHEN", help="Else until it is deleted.", show_default=False)
    ] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.", show_default=False)] = "",
    platform: Platform = False,
) -> None:
    """Set a contract; sidecars know within a second.

    bursar price contract set --provider openai --discount 10%
    bursar price contract set --model 'gpt-4o*' --margin 15% --fee 0.001 --from 2027-01-01
    """
    for glob, option in ((provider, "--provider"), (model, "--model")):
        if not glob:
            # What a script left empty would otherwise be all models there are.
            raise UsageFault(option, "is empty; expected a name or a glob, * for any")
    contract = contracts_pb2.PriceContract(provider=provider, model=model, reason=reason)
    if discount:
        contract.discount_factor = format_decimal(ONE - factor(discount, "--discount", most=ONE))
    if margin:
        contract.margin_factor = format_decimal(ONE + factor(margin, "--margin"))
    if call_fee:
        amount, currency = fee(call_fee, "--fee")
        contract.call_fee = amount
        contract.currency = currency or session.currency(typed.PLATFORM if platform else None)
    if not (discount or margin or call_fee):
        raise UsageFault("--discount", "give a discount, a margin or a fee")
    for text, option, stamp in (
        (begin, "--from", contract.effective_time),
        (until, "--until", contract.expire_time),
    ):
        if text:
            stamp.FromDatetime(typed.any_instant(text, option, session.now, UTC))
    request = contracts_pb2.SetPriceContractRequest(
        organization=typed.PLATFORM if platform else session.organization,
        contract=contract,
        request_id=new_request_id(),
    )
    session.show(session.client.contracts.SetPriceContract(request), CONTRACTS)


@verb(app, "list")
def list_contracts(
    session: Session,
    ended: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
) -> None:
    """List the contracts that hold or will: the platform's, and the organization's own.

    bursar price contract list --all
    """
    request = contracts_pb2.ListPriceContractsRequest(
        organization=session.organization, include_ended=ended
    )
    answer = session.client.contracts.ListPriceContracts(request)
    session.show_all(answer.contracts, CONTRACTS, empty="no contracts")


@verb(app, "delete")
def delete_contract(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="CONTRACT", help="contracts/17, or 17.")],
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHEN",
            help="Else from now on; in the past: it was never right.",
            show_default=False,
        ),
    ] = "",
    platform: Platform = False,
) -> None:
    """Take a contract back.

    bursar price contract delete contracts/17
    """
    request = contracts_pb2.DeletePriceContractRequest(
        organization=typed.PLATFORM if platform else session.organization,
        name=typed.resource_name("contracts", name, "CONTRACT"),
    )
    if begin:
        request.effective_time.FromDatetime(typed.any_instant(begin, "--from", session.now, UTC))
    session.client.contracts.DeletePriceContract(request)
    session.deleted(request.name)
