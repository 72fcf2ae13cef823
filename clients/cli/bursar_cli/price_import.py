"""`bursar price import`: lists that others publish, and the sync of one. Verbs of `price`."""

import hashlib
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from bursar.v1 import price_imports_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, printable, when_set
from bursar_cli.exit_codes import REFUSED
from bursar_cli.output import Format
from bursar_cli.rates import MILLION
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, verb

CHUNK_BYTES: Final = 256 * 1024
# The control plane waits two minutes for a file; reading and comparing takes it a second.
TIMEOUT_S: Final = 180.0
MOST_ROWS: Final = 40

_PERCENTAGE: Final = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,9})?", re.ASCII)
ADDRESSES: Final = ("http://", "https://")


class Form(StrEnum):
    """What `--from` takes."""

    AUTO = "auto"
    LITELLM = "litellm"
    GENAI_PRICES = "genai-prices"


_FORMS: Final = {
    Form.AUTO: price_imports_pb2.PRICE_LIST_FORM_UNSPECIFIED,
    Form.LITELLM: price_imports_pb2.PRICE_LIST_FORM_LITELLM,
    Form.GENAI_PRICES: price_imports_pb2.PRICE_LIST_FORM_GENAI_PRICES,
}
_KINDS: Final = {
    price_imports_pb2.PRICE_CHANGE_KIND_ADDED: "added",
    price_imports_pb2.PRICE_CHANGE_KIND_REMOVED: "removed",
    price_imports_pb2.PRICE_CHANGE_KIND_CHANGED: "changed",
}
_OUTCOMES: Final = {
    price_imports_pb2.PRICE_IMPORT_OUTCOME_UNCHANGED: "unchanged",
    price_imports_pb2.PRICE_IMPORT_OUTCOME_IMPORTED: "imported",
    price_imports_pb2.PRICE_IMPORT_OUTCOME_WOULD_IMPORT: "would be imported",
    price_imports_pb2.PRICE_IMPORT_OUTCOME_WOULD_REFUSE: "would be refused",
}


class _Row(NamedTuple):
    """One line of a table of changes."""

    kind: str
    model: str
    rate: str
    old: str
    new: str
    percent: str
    note: str


CHANGES: Final = (
    Column("Model", lambda row: row.model),
    Column("What", lambda row: row.kind),
    Column("Rate", lambda row: row.rate),
    Column("Old", lambda row: row.old),
    Column("New", lambda row: row.new),
    Column("Change", lambda row: row.percent),
    Column("Note", lambda row: row.note),
)
SYNC: Final = (
    Column("Enabled", lambda sync: sync.enabled),
    Column("Address", lambda sync: sync.url),
    Column("Every (s)", lambda sync: sync.interval_seconds),
    Column("Max change (%)", lambda sync: sync.max_change_percent),
    Column("Last look", lambda sync: when_set(sync, "attempt_time")),
    Column("Outcome", lambda sync: sync.outcome),
    Column("Detail", lambda sync: sync.detail),
    Column("Last success", lambda sync: when_set(sync, "success_time")),
    Column("Failures", lambda sync: sync.failure_count),
    Column("Next look", lambda sync: when_set(sync, "next_time")),
    Column("Version", lambda sync: sync.version),
)

Platform = Annotated[bool, typer.Option("--platform", help="For all organizations.")]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs to the noun `price`."""
    verb(app, "import")(import_prices)
    verb(app, "unimport")(clear_imported_prices)
    verb(app, "sync", organization=False)(show_sync)


def import_prices(
    session: Session,
    source: Annotated[
        str, typer.Argument(metavar="FILE|URL", help="A file, - for stdin, or http(s)://...")
    ],
    written_by: Annotated[
        Form, typer.Option("--from", help="Whose form it has; auto finds out.")
    ] = Form.AUTO,
    platform: Platform = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    max_change: Annotated[
        str,
        typer.Option(
            metavar="PERCENT",
            help="Refuse the list if a rate changes by more, up or down.",
            show_default=False,
        ),
    ] = "",
    max_removed: Annotated[
        str,
        typer.Option(
            metavar="PERCENT",
            help="Refuse it if more of the prices imported before are not on it.",
            show_default="10",
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Take it over although a limit refuses it.")
    ] = False,
) -> None:
    """Take over a published price list (LiteLLM's map, genai-prices), whole or not at all.

    bursar price import model_prices_and_context_window.json --dry-run
    bursar price import https://example.com/prices.json --platform --max-change 50
    """
    limits = (_percentage(max_change, "--max-change"), _percentage(max_removed, "--max-removed"))
    name, data = _read(source)
    asked = price_imports_pb2.PriceImport(
        organization=_organization(session, platform=platform),
        form=_FORMS[written_by],
        source=name,
        dry_run=dry_run,
        max_change_percent=limits[0],
        max_removed_percent=limits[1],
        force=force,
        content_sha256=hashlib.sha256(data).digest(),
    )
    answer = session.client.price_imports.ImportPrices(_parts(asked, data), timeout=TIMEOUT_S)
    _show(session, answer)
    if answer.outcome == price_imports_pb2.PRICE_IMPORT_OUTCOME_WOULD_REFUSE:
        for refusal in answer.refusals:
            typer.echo(printable(f"would be refused: {refusal}"), err=True)
        raise typer.Exit(REFUSED)


def clear_imported_prices(session: Session, platform: Platform = False) -> None:
    """Take the imported list back, from now on: the built-in prices stand again.

    bursar price unimport --platform
    """
    asked = price_imports_pb2.ClearImportedPricesRequest(
        organization=_organization(session, platform=platform)
    )
    answer = session.client.price_imports.ClearImportedPrices(asked)
    if session.form is Format.TABLE:
        typer.echo(f"{answer.removed_count} imported prices ended")
    elif session.form is not Format.CSV:
        output.write_data(output.as_object(answer), session.form)


def show_sync(session: Session) -> None:
    """Show what the scheduled import of a published list did last, and when it looks again.

    bursar price sync
    """
    asked = price_imports_pb2.GetPriceSyncRequest()
    session.show(session.client.price_imports.GetPriceSync(asked), SYNC)


def _organization(session: Session, *, platform: bool) -> str:
    if not platform:
        return session.organization
    if session.organization not in ("", typed.PLATFORM):
        raise UsageFault("--platform", "is for all organizations; leave --org out")
    return typed.PLATFORM


def _percentage(text: str, option: str) -> str:
    """A percentage as typed: "50", "12.5 %"; empty where none was."""
    bare = text.strip().removesuffix("%").strip()
    if text and not _PERCENTAGE.fullmatch(bare):
        raise UsageFault(option, f"{typed.shown(text)} is no percentage; expected 50 or 12.5")
    return bare


def _read(source: str) -> tuple[str, bytes]:
    """What the list is called, and its bytes."""
    # Here: no other verb needs them, and they take a while to load.
    from bursar.download import DownloadError, download, shown_url  # noqa: PLC0415
    from bursar.pricing.lists import MAX_LIST_BYTES  # noqa: PLC0415

    if source.startswith(ADDRESSES):
        try:
            data = download(source, most_bytes=MAX_LIST_BYTES).data
        except DownloadError as error:
            raise UsageFault("FILE|URL", str(error)) from None
        return shown_url(source), data or b""
    try:
        with sys.stdin.buffer if source == "-" else Path(source).open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise UsageFault("FILE|URL", f"{source}: {error.strerror}") from None
    if not 0 < len(data) <= MAX_LIST_BYTES:
        expected = f"expected 1 to {MAX_LIST_BYTES} bytes"
        raise UsageFault("FILE|URL", f"{source} is empty or too large; {expected}")
    return ("stdin" if source == "-" else Path(source).name[:200]), data


def _parts(
    asked: price_imports_pb2.PriceImport, data: bytes
) -> Iterator[price_imports_pb2.ImportPricesRequest]:
    yield price_imports_pb2.ImportPricesRequest(wanted=asked)
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        yield price_imports_pb2.ImportPricesRequest(chunk=chunk)


def _show(session: Session, answer: price_imports_pb2.ImportPricesResponse) -> None:
    if session.form in (Format.JSON, Format.YAML):
        output.write_data(output.as_object(answer), session.form)
        return
    rows = [row for change in answer.changes for row in _rows(change)]
    if session.form is Format.CSV:
        output.write_csv(rows, CHANGES)
        return
    if rows:
        output.write_table(rows[:MOST_ROWS], CHANGES, session.now)
        more = len(rows) - MOST_ROWS
        if more > 0 or answer.further_change_count:
            typer.echo(f"... and {max(more, 0)} more rows: -o csv or -o json has them all")
        typer.echo("")
    counts = (
        f"{answer.added_count} models added, {answer.removed_count} removed, "
        f"{answer.changed_count} changed"
    )
    if answer.left_the_list_count:
        counts += f"; {answer.left_the_list_count} left the list"
    typer.echo(
        f"{_OUTCOMES.get(answer.outcome, 'done')}: {printable(answer.version)}, "
        f"{answer.price_count} prices ({answer.left_out_count} entries without a price left out)"
    )
    if answer.outcome != price_imports_pb2.PRICE_IMPORT_OUTCOME_UNCHANGED:
        typer.echo(counts)
    if answer.outcome != price_imports_pb2.PRICE_IMPORT_OUTCOME_WOULD_REFUSE:
        for refusal in answer.refusals:
            session.note(f"forced: {refusal}")


def _rows(change: price_imports_pb2.PriceChange) -> list[_Row]:
    """The lines of one model: one for each rate, or the plain ones of a whole price."""
    kind, name = _KINDS.get(change.kind, ""), f"{change.provider}/{change.model}"
    note = "; ".join(change.notes)
    if change.left_the_list:
        note = "; ".join(filter(None, ["left the list", note]))
    if change.HasField("effective_time"):
        note = f"from {change.effective_time.ToDatetime():%Y-%m-%d}; {note}".rstrip("; ")
    rows = [
        _Row(kind, name, rate.rate, *_rates(rate), _percent(rate.change_percent), note)
        for rate in change.rates
    ]
    return rows or [_Row(kind, name, "", "", "", "", note)]


def _rates(rate: Any) -> tuple[str, str]:
    factor = rate.rate.startswith("factor ")
    per = "" if factor or rate.per == MILLION else f"/{rate.per}"
    return (rate.old and f"{rate.old}{per}", rate.new and f"{rate.new}{per}")


def _percent(text: str) -> str:
    return f"{Decimal(text):+.2f} %" if text else ""
