"""The European Central Bank's files of reference rates, read whole or not at all. Pure.

Reads each form in which the bank publishes them (eurofxref-daily.xml, eurofxref-hist.xml,
eurofxref.csv, eurofxref-hist.csv, and a zip with one of the latter), told apart by their content.
A rate says how much of a currency one euro is. A rate of a day holds from 16:00 in Frankfurt on,
because it is published then; until the next is published (over a weekend, too) it goes on to hold.
Source: the bank's page "Euro foreign exchange reference rates".
"""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from bursar.exchange import ExchangeError, ExchangeRate, parse_rate
from bursar.money import CURRENCIES

EURO: Final = "EUR"
PUBLISHED_AT: Final = time(16)
ZONE: Final = ZoneInfo("Europe/Berlin")

# The whole history since 1999 has 7 MB as XML; a file beyond this is none of the bank's.
MOST_BYTES: Final = 64 * 1024 * 1024
MOST_DAYS: Final = 20_000
MOST_CURRENCIES: Final = 200

_ZIP: Final = b"PK\x03\x04"
_BOM: Final = "\ufeff"
_CODE: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_CUBE: Final = "{http://www.ecb.int/vocabulary/2002-08-01/eurofxref}Cube"
_ENVELOPE: Final = "{http://www.gesmes.org/xml/2002-08-01}Envelope"
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_NO_RATE: Final = ("", "N/A")
# Currencies that no longer exist have their columns in the history to this day.
_SHOWN: Final = 40


class EcbFileError(ValueError):
    """No file of reference rates, or a damaged one; the message says where, what and why."""


class EcbFile(NamedTuple):
    """What a file says."""

    rates: tuple[ExchangeRate, ...]
    """By day and currency, each from one euro."""
    skipped: tuple[str, ...]
    """Currencies in it that are in use no more."""


def read_reference_rates(data: bytes) -> EcbFile:
    """The rates of a file. Raises EcbFileError, and then none of it counts."""
    if len(data) > MOST_BYTES:
        raise EcbFileError(f"the file has {len(data)} bytes; at most {MOST_BYTES}")
    if data.startswith(_ZIP):
        data = _unpacked(data)
    try:
        text = data.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise EcbFileError(f"byte {error.start} is no UTF-8 text") from None
    quotes = _xml(text) if text.lstrip().startswith("<") else _csv(text)
    return _checked(quotes)


class _Quote(NamedTuple):
    """One rate as it stands in the file; `where` says where."""

    where: str
    day: date
    currency: str
    rate: str


def _checked(quotes: Iterable[_Quote]) -> EcbFile:
    rates: list[ExchangeRate] = []
    seen: set[tuple[date, str]] = set()
    days: set[date] = set()
    skipped: set[str] = set()
    for where, day, currency, text in quotes:
        if not _CODE.fullmatch(currency) or currency == EURO:
            raise EcbFileError(f"{where}: {currency[:_SHOWN]!r} is no currency against the euro")
        if (day, currency) in seen:
            raise EcbFileError(f"{where}: {currency} of {day} is there twice")
        seen.add((day, currency))
        days.add(day)
        if len(days) > MOST_DAYS:
            raise EcbFileError(f"{where}: more than {MOST_DAYS} days")
        try:
            rate = parse_rate(text)
        except ExchangeError as error:
            raise EcbFileError(f"{where}: {error}") from None
        if currency not in CURRENCIES:
            skipped.add(currency)
            continue
        begins = datetime.combine(day, PUBLISHED_AT, ZONE).astimezone(UTC)
        rates.append(ExchangeRate(EURO, currency, rate, begins))
    if not rates:
        raise EcbFileError("the file holds no rate")
    rates.sort(key=lambda rate: (rate.effective_at, rate.quote))
    return EcbFile(tuple(rates), tuple(sorted(skipped)))


def _unpacked(data: bytes) -> bytes:
    """The one CSV file in a zip; its sizes are not believed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if len(names) != 1 or not names[0].lower().endswith(".csv"):
                raise EcbFileError(f"the zip holds {len(names)} files; expected one .csv")
            with archive.open(names[0]) as packed:
                text = packed.read(MOST_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise EcbFileError(f"the zip is damaged: {error}") from None
    if len(text) > MOST_BYTES:
        raise EcbFileError(f"the file in the zip has more than {MOST_BYTES} bytes")
    return text


def _xml(text: str) -> Iterator[_Quote]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        # The bank's files have none; entities of its own could blow a small file up.
        raise EcbFileError("the XML declares a document type; expected none")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise EcbFileError(f"the XML is damaged: {error}") from None
    if root.tag != _ENVELOPE:
        raise EcbFileError(f"the XML is a {root.tag[:_SHOWN]!r}; expected a gesmes Envelope")
    for outer in root.iterfind(f"{_CUBE}/{_CUBE}"):
        day = _day(outer.get("time", ""), "Cube time")
        for cube in outer.iterfind(_CUBE):
            currency = cube.get("currency", "")
            yield _Quote(f"{day}", day, currency, cube.get("rate", ""))


def _csv(text: str) -> Iterator[_Quote]:
    lines = csv.reader(io.StringIO(text), skipinitialspace=True, strict=True)
    try:
        header = [cell.strip() for cell in next(lines, [])]
        if not header or header[0] != "Date":
            shown = ",".join(header)[:_SHOWN]
            raise EcbFileError(f"line 1 is {shown!r}; expected 'Date' and currencies")
        if not 2 <= len(header) <= MOST_CURRENCIES:
            raise EcbFileError(f"line 1 has {len(header)} columns; expected 2 to {MOST_CURRENCIES}")
        for line in lines:
            where = f"line {lines.line_num}"
            cells = [cell.strip() for cell in line]
            if not any(cells):
                continue
            # Each line ends with a comma: a cell that is missing must not move the others along.
            if len(cells) != len(header) or (header[-1] == "" and cells[-1]):
                raise EcbFileError(f"{where} has {len(cells)} columns; expected {len(header)}")
            day = _day(cells[0], where)
            for currency, rate in zip(header[1:], cells[1:], strict=True):
                if rate not in _NO_RATE:
                    yield _Quote(f"{where}, {currency[:_SHOWN]}", day, currency, rate)
    except csv.Error as error:
        raise EcbFileError(f"line {lines.line_num}: {error}") from None


def _day(text: str, where: str) -> date:
    """ "2026-11-20" as in the history, or "20 November 2026" as in the daily CSV."""
    words = text.split()
    try:
        if len(words) == 3 and words[1] in _MONTHS:
            return date(int(words[2]), _MONTHS.index(words[1]) + 1, int(words[0]))
        return date.fromisoformat(text)
    except ValueError:
        shown = text[:_SHOWN]
        raise EcbFileError(f"{where}: {shown!r} is no day such as 2026-11-20") from None
