"""`bursar price`: what models cost, and what a call would."""

import json
import sys
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.client import new_request_id
from bursar.pricing.quote import quote_rows, rows_of
from bursar.usage import MAX_COUNT
from bursar.v1 import charges_pb2, prices_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, as_text, printable, when_set
from bursar_cli.output import Format
from bursar_cli.price_contracts import app as contract_app
from bursar_cli.price_explained import explanation, quoted_offline
from bursar_cli.price_import import add_verbs as add_import_verbs
from bursar_cli.price_rerate import add_verbs as add_rerate_verbs
from bursar_cli.rates import component, meter_text, rate_text
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, noun, verb

app = noun("price", "Prices: what models cost an organization now, and what they did.")


def _rate(meter: str) -> Any:
    """A column's value: the plain rate of a meter."""

    def value(price: prices_pb2.Price) -> str:
        return next((rate_text(each) for each in price.components if meter_text(each) == meter), "")

    return value


def _others(price: prices_pb2.Price) -> list[str]:
    """The rates that have no column of their own."""
    shown = {"input", "cached_input", "output"}
    return [
        f"{meter_text(each)} {rate_text(each)}"
        for each in price.components
        if meter_text(each) not in shown
    ]


def _count(field: str) -> Any:
    return lambda price: getattr(price, field) or None


COLUMNS: Final = (
    Column("Provider", lambda price: price.provider),
    Column("Model", lambda price: price.model),
    Column("Mode", lambda price: price.mode),
    Column("Currency", lambda price: price.currency),
    Column("Input", _rate("input")),
    Column("Cached", _rate("cached_input")),
    Column("Output", _rate("output")),
    Column("Other rates", _others, wide=True),
    Column(
        "Factors",
        lambda price: [f"{k} x{v}" for k, v in sorted(price.multipliers.items())],
        wide=True,
    ),
    Column("Max input", _count("max_input_llm_tokens")),
    Column("Max output", _count("max_output_llm_tokens")),
    Column("From", lambda price: when_set(price, "effective_time"), wide=True),
    Column("Until", lambda price: when_set(price, "expire_time"), wide=True),
    Column("Layer", lambda price: price.layer, wide=True),
    Column("Version", lambda price: price.version),
    Column("Recorded", lambda price: when_set(price, "record_time"), wide=True),
    Column("Superseded", lambda price: when_set(price, "supersede_time"), wide=True),
    Column("By", lambda price: price.source, wide=True),
)
# Of a history, where the time is what matters.
_TOLD: Final = ("From", "Until", "Layer", "By")
HISTORY: Final = tuple(
    Column(each.title, each.value, wide=each.wide and each.title not in _TOLD)
    for each in COLUMNS
    if each.title not in {"Mode", "Max input", "Max output"}
)
# With what was believed once, when it was believed matters too.
BELIEFS: Final = tuple(
    Column(each.title, each.value, wide=each.wide and each.title not in {"Recorded", "Superseded"})
    for each in HISTORY
)
LISTS: Final = (
    Column("Name", lambda each: each.name),
    Column("Organization", lambda each: each.organization),
    Column("Version", lambda each: each.version),
    Column("Prices", lambda each: each.price_count),
    Column("Source", lambda each: each.source),
    Column("Made", lambda each: when_set(each, "create_time")),
)
LINES: Final = (
    Column("Meter", lambda line: line.meter),
    Column("Quantity", lambda line: line.quantity),
    Column("Rate", lambda line: line.rate),
    Column("Per", lambda line: line.per),
    Column("Amount", lambda line: line.amount),
)
EXPLAINED: Final = (*LINES, Column("Rule", lambda line: line.rule))
# Of a quoted row.
ROWS: Final = (
    Column("Input cost", lambda row: row.get("input_cost", "")),
    Column("Output cost", lambda row: row.get("output_cost", "")),
    Column("Error", lambda row: row.get("error", "")),
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="gpt-4o-mini or openai/gpt-4o-mini.")]
Provider = Annotated[str, typer.Option(help="openai; or write provider/model.", show_default=False)]
At = Annotated[
    str,
    typer.Option(
        metavar="WHEN", help="Then: 2026-01-31, a date and time, -7d, +30d.", show_default=False
    ),
]


def _provider_and_model(provider: str, model: str) -> tuple[str, str]:
    """The two names; "openai/gpt-4o-mini" says both."""
    if provider:
        return provider, model
    head, slash, rest = model.partition("/")
    if not slash or not head or not rest:
        raise UsageFault("--provider", f"say whose model it is: provider/{model}, or --provider")
    return head, rest


@verb(app, "list")
def list_prices(
    session: Session,
    model: Annotated[str, typer.Option(metavar="GLOB", help="gpt-4o*", show_default=False)] = "",
    provider: Annotated[str, typer.Option(help="openai", show_default=False)] = "",
    custom: Annotated[bool, typer.Option("--custom", help="Only the operator's own.")] = False,
    at: At = "",
) -> None:
    """List the prices in force. Rates are per million LLM tokens unless they say otherwise.

    bursar price list --model 'gpt-4o*' --provider openai
    bursar price list --custom -o csv
    """
    request = prices_pb2.ListPricesRequest(
        organization=session.organization,
        page_size=1000,
        model=model,
        provider=provider,
        custom_only=custom,
    )
    _stamp(session, request.at_time, at, "--at")
    session.show_list(session.client.prices.ListPrices, request, COLUMNS, empty="no prices")


def _stamp(session: Session, stamp: Timestamp, text: str, option: str) -> None:
    """Set an instant as typed; nothing typed stays nothing."""
    if text:
        stamp.FromDatetime(typed.any_instant(text, option, session.now, UTC))


@verb(app, "show")
def show_price(session: Session, model: Model, at: At = "") -> None:
    """Show the price of one model on the list, without contracts.

    bursar price show gpt-4o-mini
    bursar price show gpt-4o-mini --at 2026-01-31
    """
    asked = prices_pb2.GetPriceRequest(organization=session.organization, model=model)
    _stamp(session, asked.at_time, at, "--at")
    session.show(session.client.prices.GetPrice(asked), COLUMNS)


@verb(app, "set")
def set_price(
    session: Session,
    model: Model,
    provider: Provider = "",
    input_rate: Annotated[
        str | None, typer.Option("--input", metavar="RATE", help="Per million LLM tokens.")
    ] = None,
    output_rate: Annotated[
        str | None, typer.Option("--output", metavar="RATE", help="Per million LLM tokens.")
    ] = None,
    cached_input: Annotated[
        str | None, typer.Option(metavar="RATE", help="Per million read from a cache.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METER=RATE",
            help="Any other: cache_write_5m=3.75, request=0.01/1, 'input>200000=2.50', "
            "output@batch=5. Per million unless /N says otherwise. May be repeated.",
        ),
    ] = None,
    free: Annotated[bool, typer.Option("--free", help="It costs nothing.")] = False,
    currency: Annotated[str, typer.Option(help="ISO 4217 code.", show_default=False)] = "",
    mode: Annotated[str, typer.Option(help="chat, embedding ...")] = "chat",
    max_input: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Context window, LLM tokens.")
    ] = 0,
    max_output: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Longest answer, LLM tokens.")
    ] = 0,
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHEN",
            help="Past (corrects what was believed) or to come (scheduled); else from now on.",
            show_default=False,
        ),
    ] = "",
    until: Annotated[
        str,
        typer.Option(metavar="WHEN", help="Else until the next one begins.", show_default=False),
    ] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.", show_default=False)] = "",
) -> None:
    """Set your own price of a model, from now on or another time; sidecars know within a second.

    bursar price set openai/gpt-4o-mini --input 0.15 --output 0.60 --cached-input 0.075
    bursar price set openai/gpt-4o-mini --input 0.12 --output 0.50 --from 2027-01-01
    bursar price set mine/llama --free
    """
    whose, name = _provider_and_model(provider, model)
    pairs = [
        component(meter, text, option)
        for meter, text, option in (
            ("input", input_rate, "--input"),
            ("cached_input", cached_input, "--cached-input"),
            ("output", output_rate, "--output"),
        )
        if text is not None
    ]
    for text in rate or ():
        meter, equals, value = text.partition("=")
        if not equals:
            raise UsageFault("--rate", f"{typed.shown(text)} is not of the form METER=RATE")
        pairs.append(component(meter, value, "--rate"))
    if free and pairs:
        raise UsageFault("--free", "a free model has no rates")
    if free:
        pairs = [component("input", "0", "--free"), component("output", "0", "--free")]
    if not pairs:
        raise UsageFault("--input", "give at least one rate, or --free")
    price = prices_pb2.Price(
        provider=whose,
        model=name,
        currency=currency or session.currency(),
        components=pairs,
        max_input_llm_tokens=max_input,
        max_output_llm_tokens=max_output,
        mode=mode,
    )
    _stamp(session, price.effective_time, begin, "--from")
    _stamp(session, price.expire_time, until, "--until")
    request = prices_pb2.SetPriceRequest(
        organization=session.organization, price=price, request_id=new_request_id(), reason=reason
    )
    session.show(session.client.prices.SetPrice(request), COLUMNS)


@verb(app, "history")
def price_history(
    session: Session,
    model: Model,
    provider: Provider = "",
    beliefs: Annotated[
        bool, typer.Option("--all", help="Also what was believed once and is no longer.")
    ] = False,
) -> None:
    """Show every version of one model's price, the newest first: from when until when, and by whom.

    bursar price history openai/gpt-4o-mini
    bursar price history openai/gpt-4o-mini --all -o json
    """
    whose, name = _provider_and_model(provider, model)
    asked = prices_pb2.ListPriceHistoryRequest(
        organization=session.organization, provider=whose, model=name, include_superseded=beliefs
    )
    answer = session.client.prices.ListPriceHistory(asked)
    session.show_all(answer.prices, BELIEFS if beliefs else HISTORY, empty="no prices")


@verb(app, "delete")
def delete_price(
    session: Session,
    model: Model,
    provider: Provider = "",
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="WHEN", help="In the past: it was never right.", show_default=False
        ),
    ] = "",
) -> None:
    """Take your own price of a model back, from now on; what is scheduled of it, too.

    bursar price delete openai/gpt-4o-mini
    """
    whose, name = _provider_and_model(provider, model)
    asked = prices_pb2.DeletePriceRequest(
        organization=session.organization, provider=whose, model=name
    )
    _stamp(session, asked.effective_time, begin, "--from")
    session.client.prices.DeletePrice(asked)
    session.deleted(f"{whose}/{name}")


@verb(app, "lists")
def list_price_lists(session: Session) -> None:
    """Show the layers that prices come from, the weakest first.

    bursar price lists
    """
    asked = prices_pb2.ListPriceListsRequest(organization=session.organization)
    session.show_all(session.client.prices.ListPriceLists(asked).price_lists, LISTS)


@verb(app, "quote")
def quote(
    session: Session,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="gpt-4o-mini or openai/gpt-4o-mini.")
    ] = "",
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON rows to price here, without a server; - is stdin."),
    ] = None,
    input_count: Annotated[
        int, typer.Option("--input", min=0, max=MAX_COUNT, help="LLM tokens.")
    ] = 0,
    cached_input: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Of a cache, besides --input.")
    ] = 0,
    cache_write: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Written to a 5 min cache.")
    ] = 0,
    cache_write_1h: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Written to a 1 h cache.")
    ] = 0,
    output_count: Annotated[
        int, typer.Option("--output", min=0, max=MAX_COUNT, help="LLM tokens.")
    ] = 0,
    reasoning: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="How many of the output.")
    ] = 0,
    tier: Annotated[str, typer.Option(help="batch, flex, priority ...", show_default=False)] = "",
    region: Annotated[str, typer.Option(help="The provider's: eu ...", show_default=False)] = "",
    at: At = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which rule, price and contract chose each rate.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="By the built-in list, without a server.")
    ] = False,
) -> None:
    """Say what a call would cost. Rows of a file are priced here, one JSON object a line each.

    bursar price quote gpt-4o-mini --input 1000 --output 500
    bursar price quote gpt-4o-mini --input 1000 --tier priority --explain --offline
    bursar price quote --rows rows.jsonl -o json
    """
    if (rows is None) == (model == ""):
        raise UsageFault("MODEL or --rows", "give one of them")
    if rows is not None:
        _quote_rows(session, rows, explain=explain)
        return
    request = prices_pb2.QuotePriceRequest(
        organization=session.organization,
        model=model,
        usage=charges_pb2.Usage(
            input_llm_tokens=input_count,
            cached_input_llm_tokens=cached_input,
            cache_write_5m_llm_tokens=cache_write,
            cache_write_1h_llm_tokens=cache_write_1h,
            output_llm_tokens=output_count,
            reasoning_llm_tokens=reasoning,
        ),
        service_tier=tier,
        region=region,
    )
    _stamp(session, request.at_time, at, "--at")
    if offline:
        answer = quoted_offline(request, session.now)
    else:
        answer = session.client.prices.QuotePrice(request)
    _show_quote(session, answer, explain=explain)


def _show_quote(session: Session, answer: prices_pb2.QuotePriceResponse, *, explain: bool) -> None:
    if session.form is Format.CSV:
        output.write_csv(answer.lines, EXPLAINED if explain else LINES)
    elif session.form is not Format.TABLE:
        output.write_data(output.as_object(answer), session.form)
    else:
        columns = EXPLAINED if explain else LINES
        output.write_table(answer.lines, columns, session.now, empty="nothing was counted")
        if explain:
            for line in explanation(answer):
                typer.echo(printable(line))
        price = f"{answer.price.provider}/{answer.price.model}, {answer.price.version}"
        typer.echo(f"\n{as_text(answer.cost, session.now)} ({price})")
        _echo_converted(session, answer)


def _echo_converted(session: Session, answer: prices_pb2.QuotePriceResponse) -> None:
    """What a quote is in the organization's currency, where the price is in another."""
    if not answer.HasField("organization_cost"):
        typer.echo("In the organization's currency: unknown, for no exchange rate is known.")
        return
    notes = []
    if answer.exchange_rate:
        one = f"{answer.exchange_rate} {answer.organization_cost.currency}"
        notes.append(f"one {answer.cost.currency} is {one}")
    if answer.HasField("foreign_fee"):
        notes.append(f"with the fee of {as_text(answer.foreign_fee, session.now)} a call")
    if notes:
        typer.echo(f"{as_text(answer.organization_cost, session.now)} ({', '.join(notes)})")


def _quote_rows(session: Session, path: Path, *, explain: bool) -> None:
    """One line out for each line in, as it is read: a file may be larger than memory."""
    form = session.form
    if form is Format.YAML:
        raise UsageFault("-o", "quotes of rows are written as json, csv or table")
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as lines:
            if form is Format.JSON:
                for answer in quote_rows(rows_of(lines), explain=explain):
                    typer.echo(json.dumps(answer))
                return
            answers = list(quote_rows(rows_of(lines)))
    except OSError as error:
        raise UsageFault("--rows", f"{path}: {error.strerror}") from None
    if form is Format.CSV:
        output.write_csv(answers, ROWS)
    else:
        output.write_table(answers, ROWS, session.now, empty="no rows")


add_import_verbs(app)
app.add_typer(contract_app, name="contract", help="Discounts, margins and fees.")
add_rerate_verbs(app)
