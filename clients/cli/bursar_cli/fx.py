"""`bursar fx`: what currencies are worth in each other, and since when."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.download import DownloadError, download
from bursar.ecb_rates import MOST_BYTES, EcbFile, EcbFileError, read_reference_rates
from bursar.exchange import ExchangeError, ExchangeRate, parse_rate
from bursar.money import MoneyError, check_currency
from bursar.v1 import exchange_rates_pb2
from bursar.wire import exchange_rate_to_proto
from bursar_cli import output, typed
from bursar_cli.cells import Column, when_set
from bursar_cli.output import Format
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, noun, verb

app = noun("fx", "Exchange rates: what one currency is worth in another, and since when.")

# What the service takes in one request.
MOST_OF_A_REQUEST: Final = 20_000
MOST_SOURCE: Final = 256
ENDED: Final = "(ended)"

COLUMNS: Final = (
    Column("Base", lambda rate: rate.base_currency),
    Column("Quote", lambda rate: rate.quote_currency),
    Column("Rate", lambda rate: rate.rate or ENDED),
    Column("From", lambda rate: rate.effective_time.ToJsonString()),
    Column("Of", lambda rate: rate.organization.partition("/")[2]),
    Column("Source", lambda rate: rate.source),
    Column("Recorded", lambda rate: when_set(rate, "record_time"), wide=True),
    Column("Name", lambda rate: rate.name, wide=True),
)
CHANGES: Final = (
    Column("Base", lambda change: change.exchange_rate.base_currency),
    Column("Quote", lambda change: change.exchange_rate.quote_currency),
    Column("From", lambda change: change.exchange_rate.effective_time.ToJsonString()),
    Column("Before", lambda change: change.previous_rate),
    Column("Rate", lambda change: change.exchange_rate.rate),
    Column("Change", lambda change: _moved(change)),
    Column("Corrects", lambda change: "yes" if change.corrects else ""),
)

Base = Annotated[str, typer.Argument(metavar="BASE", help="ISO 4217 code: USD.")]
Quote = Annotated[str, typer.Argument(metavar="QUOTE", help="ISO 4217 code: EUR.")]
From = Annotated[
    str,
    typer.Option(
        "--from", metavar="TIME", help="2026-12-01 or 2026-12-01T08:00; else now.",
        show_default=False,
    ),
]  # fmt: skip


@verb(app, "set")
def set_rate(
    session: Session,
    base: Base,
    quote: Quote,
    rate: Annotated[str, typer.Argument(metavar="RATE", help="What one BASE is in QUOTE: 0.92.")],
    start: From = "",
    source: Annotated[str, typer.Option(help="Where it comes from.", show_default=False)] = "",
) -> None:
    """Record a rate, from now on or from a time; sidecars know within a second.

    It holds for every organization, or with --org for that one alone.

    bursar fx set USD EUR 0.92
    bursar fx set USD EUR 0.91 --from 2027-01-01 --source "treasury, Q1" --org acme
    """
    try:
        parse_rate(rate)
    except ExchangeError as error:
        raise UsageFault("RATE", str(error)) from None
    asked = exchange_rates_pb2.ExchangeRate(
        base_currency=_code(base, "BASE"),
        quote_currency=_code(quote, "QUOTE"),
        rate=rate,
        source=source,
    )
    if start:
        asked.effective_time.FromDatetime(_time(session, start, "--from"))
    request = exchange_rates_pb2.SetExchangeRateRequest(
        organization=_owner(session), exchange_rate=asked, request_id=new_request_id()
    )
    session.show(session.client.exchange_rates.SetExchangeRate(request), COLUMNS)


@verb(app, "end")
def end_rate(session: Session, base: Base, quote: Quote, start: From = "") -> None:
    """Take the rates of a pair back, from now on or from a time.

    With --org an organization's own; then every organization's hold for it again.

    bursar fx end USD EUR --org acme
    """
    request = exchange_rates_pb2.EndExchangeRateRequest(
        organization=_owner(session),
        base_currency=_code(base, "BASE"),
        quote_currency=_code(quote, "QUOTE"),
        request_id=new_request_id(),
    )
    if start:
        request.effective_time.FromDatetime(_time(session, start, "--from"))
    session.show(session.client.exchange_rates.EndExchangeRate(request), COLUMNS)


@verb(app, "list")
def list_rates(
    session: Session,
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="In force then.", show_default=False)
    ] = "",
    currency: Annotated[str, typer.Option(help="Of pairs with this one.", show_default=False)] = "",
    history: Annotated[
        bool, typer.Option("--history", help="All that were recorded, superseded ones too.")
    ] = False,
) -> None:
    """List the rates in force, and those that begin later. With --org as they are for that one.

    bursar fx list
    bursar fx list --at 2026-06-30 --org acme -o csv
    bursar fx list --history --currency USD
    """
    if history and at:
        raise UsageFault("--at", "has no meaning beside --history")
    request = exchange_rates_pb2.ListExchangeRatesRequest(
        organization=_owner(session),
        page_size=1000,
        currency=_code(currency, "--currency") if currency else "",
        history=history,
    )
    if at:
        request.time.FromDatetime(_time(session, at, "--at"))
    call = session.client.exchange_rates.ListExchangeRates
    session.show_list(call, request, COLUMNS, empty="no exchange rates")


@verb(app, "import")
def import_rates(
    session: Session,
    file: Annotated[
        str, typer.Argument(metavar="FILE|URL|-", help="A file, an address, or standard input.")
    ],
    since: Annotated[
        str, typer.Option(metavar="DATE", help="Only days from then on.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what changes.")] = False,
) -> None:
    """Record the rates of a file of the European Central Bank, and show what that changes.

    Daily or history, XML, CSV or zip. Nothing is fetched unless an address is given; of a file
    with a fault nothing is recorded.

    bursar fx import eurofxref-daily.xml
    bursar fx import eurofxref-hist.zip --since 2026-01-01 --dry-run
    bursar fx import https://www.ecb.europa.eu/stats/eurofxref/eurofxref-daily.xml
    """
    read = _read(file)
    rates: Sequence[ExchangeRate] = read.rates
    if since:
        first = _time(session, since, "--since")
        rates = [rate for rate in rates if rate.effective_at >= first]
        if not rates:
            raise UsageFault("--since", f"the file has no rate from {typed.shown(since)} on")
    if read.skipped:
        session.note(f"not in use any more, left out: {', '.join(read.skipped)}")
    owner, source = _owner(session), _source(file)
    whole = exchange_rates_pb2.ImportExchangeRatesResponse()
    for part in _parts(rates):
        request = exchange_rates_pb2.ImportExchangeRatesRequest(
            organization=owner,
            exchange_rates=[exchange_rate_to_proto(rate) for rate in part],
            source=source,
            dry_run=dry_run,
            request_id="" if dry_run else new_request_id(),
        )
        answer = session.client.exchange_rates.ImportExchangeRates(request)
        whole.changes.extend(answer.changes)
        whole.changed_count += answer.changed_count
        whole.unchanged_count += answer.unchanged_count
    _show_import(session, whole, dry_run=dry_run)


def _show_import(
    session: Session, whole: exchange_rates_pb2.ImportExchangeRatesResponse, *, dry_run: bool
) -> None:
    if session.form is Format.CSV:
        output.write_csv(whole.changes, CHANGES)
    elif session.form is not Format.TABLE:
        output.write_data(output.as_object(whole), session.form)
    else:
        output.write_table(whole.changes, CHANGES, session.now, empty="nothing changes")
    if whole.changed_count > len(whole.changes):
        session.note(f"and {whole.changed_count - len(whole.changes)} more")
    done = "would be recorded" if dry_run else "recorded"
    session.note(f"{whole.changed_count} {done}, {whole.unchanged_count} were there already")


def _parts(rates: Sequence[ExchangeRate]) -> Iterator[Sequence[ExchangeRate]]:
    """What goes into one request each; the oldest first, so that each sees the ones before."""
    for begin in range(0, len(rates), MOST_OF_A_REQUEST):
        yield rates[begin : begin + MOST_OF_A_REQUEST]


def _read(file: str) -> EcbFile:
    """The rates of a file, an address or standard input."""
    try:
        if _is_address(file):
            data = download(file, most_bytes=MOST_BYTES).data or b""
        elif file == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MOST_BYTES + 1)
        return read_reference_rates(data)
    except OSError as error:
        raise UsageFault("FILE", f"{typed.shown(file)}: {error.strerror}") from None
    except (DownloadError, EcbFileError) as error:
        raise UsageFault("FILE", f"{typed.shown(file)}: {error}") from None


def _is_address(file: str) -> bool:
    return file.startswith(("http://", "https://"))


def _source(file: str) -> str:
    """Where rates came from, as it is kept: the file's name, without what an address may hide."""
    if file == "-":
        return "standard input"
    if _is_address(file):
        file = file.partition("?")[0].partition("#")[0]
    return file.rstrip("/").rpartition("/")[2][:MOST_SOURCE]


def _moved(change: exchange_rates_pb2.ExchangeRateChange) -> str:
    """By how much a rate moved, in per cent."""
    before, _, divisor = change.previous_rate.partition("/")
    if not before:
        return "new"
    old = parse_rate(before) / parse_rate(divisor) if divisor else parse_rate(before)
    return f"{(parse_rate(change.exchange_rate.rate) / old - 1) * 100:+.2f} %"


def _owner(session: Session) -> str:
    """Whose rates are meant: everybody's, unless --org says otherwise."""
    return session.organization or typed.PLATFORM


def _code(text: str, option: str) -> str:
    try:
        return check_currency(text)
    except MoneyError as error:
        raise UsageFault(option, str(error)) from None


def _time(session: Session, text: str, option: str) -> datetime:
    return typed.past_instant(text, option, session.now, UTC)
