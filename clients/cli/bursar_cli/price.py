"""`bursar price`: what models cost, and what a call would."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bursar.client import new_request_id
from bursar.pricing.quote import quote_rows
from bursar.usage import MAX_COUNT
from bursar.v1 import charges_pb2, prices_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, as_text, when_set
from bursar_cli.output import Format
from bursar_cli.price_import import add_verbs as add_import_verbs
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
    Column("Version", lambda price: price.version),
)
# Of a history, where the time is what matters.
HISTORY: Final = tuple(
    Column(each.title, each.value, wide=each.wide and each.title not in {"From", "Until"})
    for each in COLUMNS
    if each.title not in {"Mode", "Max input", "Max output"}
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
# Of a quoted row.
ROWS: Final = (
    Column("Input cost", lambda row: row.get("input_cost", "")),
    Column("Output cost", lambda row: row.get("output_cost", "")),
    Column("Error", lambda row: row.get("error", "")),
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="gpt-4o-mini or openai/gpt-4o-mini.")]
Provider = Annotated[str, typer.Option(help="openai; or write provider/model.", show_default=False)]


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
    session.show_list(session.client.prices.ListPrices, request, COLUMNS, empty="no prices")


@verb(app, "show")
def show_price(session: Session, model: Model) -> None:
    """Show the price in force of one model.

    bursar price show gpt-4o-mini
    """
    asked = prices_pb2.GetPriceRequest(organization=session.organization, model=model)
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
) -> None:
    """Set your own price of a model, from now on; sidecars know within a second.

    bursar price set openai/gpt-4o-mini --input 0.15 --output 0.60 --cached-input 0.075
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
    request = prices_pb2.SetPriceRequest(
        organization=session.organization, price=price, request_id=new_request_id()
    )
    session.show(session.client.prices.SetPrice(request), COLUMNS)


@verb(app, "history")
def price_history(session: Session, model: Model, provider: Provider = "") -> None:
    """Show every version of one model's price, the newest first.

    bursar price history openai/gpt-4o-mini
    """
    whose, name = _provider_and_model(provider, model)
    asked = prices_pb2.ListPriceHistoryRequest(
        organization=session.organization, provider=whose, model=name
    )
    answer = session.client.prices.ListPriceHistory(asked)
    session.show_all(answer.prices, HISTORY, empty="no prices")


@verb(app, "delete")
def delete_price(session: Session, model: Model, provider: Provider = "") -> None:
    """Take your own price of a model back, from now on.

    bursar price delete openai/gpt-4o-mini
    """
    whose, name = _provider_and_model(provider, model)
    asked = prices_pb2.DeletePriceRequest(
        organization=session.organization, provider=whose, model=name
    )
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
) -> None:
    """Say what a call would cost. Rows of a file are priced here, one JSON object a line each.

    bursar price quote gpt-4o-mini --input 1000 --output 500
    bursar price quote --rows rows.jsonl -o json
    """
    if (rows is None) == (model == ""):
        raise UsageFault("MODEL or --rows", "give one of them")
    if rows is not None:
        _quote_rows(session, rows)
        return
    answer = session.client.prices.QuotePrice(
        prices_pb2.QuotePriceRequest(
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
        )
    )
    if session.form is Format.CSV:
        output.write_csv(answer.lines, LINES)
    elif session.form is not Format.TABLE:
        output.write_data(output.as_object(answer), session.form)
    else:
        output.write_table(answer.lines, LINES, session.now, empty="nothing was counted")
        price = f"{answer.price.provider}/{answer.price.model}, {answer.price.version}"
        typer.echo(f"\n{as_text(answer.cost, session.now)} ({price})")
        _echo_converted(session, answer)


def _echo_converted(session: Session, answer: prices_pb2.QuotePriceResponse) -> None:
    """What a quote is in the organization's currency, where the price is in another."""
    if not answer.HasField("organization_cost"):
        typer.echo("In the organization's currency: unknown, for no exchange rate is known.")
    elif answer.exchange_rate:
        cost = as_text(answer.organization_cost, session.now)
        one = f"{answer.exchange_rate} {answer.organization_cost.currency}"
        typer.echo(f"{cost} (one {answer.cost.currency} is {one})")


def _quote_rows(session: Session, path: Path) -> None:
    """One line out for each line in, as it is read: a file may be larger than memory."""
    form = session.form
    if form is Format.YAML:
        raise UsageFault("-o", "quotes of rows are written as json, csv or table")
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as lines:
            if form is Format.JSON:
                for answer in quote_rows(lines):
                    typer.echo(json.dumps(answer))
                return
            answers = list(quote_rows(lines))
    except OSError as error:
        raise UsageFault("--rows", f"{path}: {error.strerror}") from None
    if form is Format.CSV:
        output.write_csv(answers, ROWS)
    else:
        output.write_table(answers, ROWS, session.now, empty="no rows")


add_import_verbs(app)
