"""How answers are written: tables for people; JSON, CSV and YAML for programs.

JSON and YAML are the proto's own JSON (64-bit integers as strings, every field present); a list is
an array. CSV has the columns of the table, exact. Nothing is coloured unless a terminal reads it.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import typer
import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bursar.v1 import money_pb2
from bursar_cli.cells import Column, Share, as_fields, as_text, decimals, is_number

# Where no terminal says how wide it is, nothing is folded: a pipe has room.
PIPE_WIDTH: Final = 1000


class Format(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    YAML = "yaml"


def as_object(message: Message) -> dict[str, Any]:
    """The proto's JSON, with empty fields told so that a script finds what it looks for."""
    found: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return found


def write_list(
    messages: Iterable[Message],
    columns: Sequence[Column],
    form: Format,
    now: datetime,
    *,
    empty: str = "none",
) -> None:
    """Many of one kind."""
    found = list(messages)
    if form is Format.TABLE:
        write_table(found, [column for column in columns if not column.wide], now, empty=empty)
    elif form is Format.CSV:
        write_csv(found, columns)
    else:
        write_data([as_object(message) for message in found], form)


def write_one(
    message: Message,
    columns: Sequence[Column],
    form: Format,
    now: datetime,
    *,
    more: dict[str, str] | None = None,
) -> None:
    """One of a kind; `more` are facts that its message does not hold (a secret just made)."""
    if form is Format.TABLE:
        _write_facts(message, columns, now, more or {})
    elif form is Format.CSV:
        write_csv([message], columns, more=more)
    else:
        write_data({**(more or {}), **as_object(message)}, form)


def write_data(data: Any, form: Format) -> None:
    """JSON values, as JSON or YAML."""
    if form is Format.YAML:
        typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def write_csv(
    rows: Sequence[Any], columns: Sequence[Column], *, more: dict[str, str] | None = None
) -> None:
    """A header and a line for each row."""
    lines = []
    for row in rows:
        line: dict[str, str] = dict(more or {})
        for column in columns:
            line.update(as_fields(column.value(row), column.field))
        lines.append(line)
    # An amount that is not set has one field where the others have two: take all there are.
    names = list(dict.fromkeys(name for line in lines for name in line))
    target = io.StringIO()
    writer = csv.DictWriter(target, names or [each.field for each in columns], restval="")
    writer.writeheader()
    writer.writerows(lines)
    typer.echo(target.getvalue().replace("\r\n", "\n"), nl=False)


def write_table(
    rows: Sequence[Any], columns: Sequence[Column], now: datetime, *, empty: str = "none"
) -> None:
    """A table for people, or the word for having none."""
    if not rows:
        typer.echo(empty)
        return
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    cells = []
    for place, column in enumerate(columns):
        values = [column.value(row) for row in rows]
        # What nobody has takes no room; the first column says which row it is.
        if place and all(_is_empty(value) for value in values):
            continue
        right = any(is_number(value) for value in values)
        # Names, amounts and bars are read (and copied) whole; texts may take more lines.
        whole = right or place == 0 or any(isinstance(value, Share | Timestamp) for value in values)
        table.add_column(
            column.title, justify="right" if right else "left", overflow="fold", no_wrap=whole
        )
        amounts = [value for value in values if isinstance(value, money_pb2.Money)]
        places = decimals(amounts)
        cells.append([_cell(value, now, places) for value in values])
    for line in zip(*cells, strict=True):
        table.add_row(*line)
    _print(table)


def _write_facts(
    message: Any, columns: Sequence[Column], now: datetime, more: dict[str, str]
) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in more.items():
        table.add_row(name.capitalize(), Text(value))
    for column in columns:
        value = column.value(message)
        if _is_empty(value):
            continue
        table.add_row(column.title, _cell(value, now, 2))
    _print(table)


def _is_empty(value: Any) -> bool:
    """Whether there is nothing to say: no text, no list, not set. Zero and "no" are something."""
    return value is None or (isinstance(value, Sequence) and not value)


def _cell(value: Any, now: datetime, places: int) -> Text:
    style = value.style if isinstance(value, Share) else ""
    return Text(as_text(value, now, places), style=style)


def _print(table: Table) -> None:
    """To a terminal as wide as it is; to a pipe without folding, colour or blanks at line ends."""
    if sys.stdout.isatty():
        Console(highlight=False, markup=False).print(table)
        return
    target = io.StringIO()
    Console(file=target, width=PIPE_WIDTH, highlight=False, markup=False).print(table)
    for line in target.getvalue().splitlines():
        typer.echo(line.rstrip())
