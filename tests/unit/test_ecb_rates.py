"""The European Central Bank's files: each form says the same, and a bad one says nothing."""

import io
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from bursar import ecb_rates
from bursar.ecb_rates import EcbFileError, read_reference_rates
from bursar.exchange import ExchangeRates

DATA = Path(__file__).parents[1] / "data" / "exchange_rates"
DAILY = (DATA / "eurofxref-daily.xml").read_bytes()
HISTORY = (DATA / "eurofxref-hist.csv").read_bytes()
# 16:00 in Frankfurt, in winter and in summer.
FRIDAY = datetime(2026, 3, 13, 15, tzinfo=UTC)


def packed(data: bytes, *names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return target.getvalue()


def test_the_daily_file_says_the_same_in_each_form() -> None:
    from_xml = read_reference_rates(DAILY)
    plain = (DATA / "eurofxref.csv").read_bytes()
    assert [(rate.base, rate.quote, rate.rate) for rate in from_xml.rates] == [
        ("EUR", "CHF", Decimal("0.9407")),
        ("EUR", "GBP", Decimal("0.85410")),
        ("EUR", "JPY", Decimal("160.55")),
        ("EUR", "USD", Decimal("1.0842")),
    ]
    assert {rate.effective_at for rate in from_xml.rates} == {FRIDAY}
    for other in (plain, packed(plain, "eurofxref.csv"), b"\xef\xbb\xbf" + plain):
        assert read_reference_rates(other) == from_xml


def test_the_history_has_days_and_currencies_that_are_gone() -> None:
    read = read_reference_rates(HISTORY)
    assert read == read_reference_rates(packed(HISTORY, "eurofxref-hist.csv"))
    assert len(read.rates) == 11
    assert read.skipped == ("HRK",)
    assert read.rates[0].effective_at == datetime(2022, 12, 30, 15, tzinfo=UTC)
    rates = ExchangeRates(read.rates)
    found = rates.conversion("USD", "GBP", FRIDAY.replace(hour=14))
    assert found is not None
    assert found.text == "0.8533/1.081"


def test_a_day_begins_when_its_rates_are_published_in_summer_too() -> None:
    summer = HISTORY.replace(b"2026-03-13", b"2026-07-13")
    assert read_reference_rates(summer).rates[-1].effective_at.hour == 14


def xml(old: bytes, new: bytes) -> bytes:
    assert old in DAILY
    return DAILY.replace(old, new)


def table(old: bytes, new: bytes) -> bytes:
    assert old in HISTORY
    return HISTORY.replace(old, new, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected 'Date'"),
        (b"\xff\xfe<", "byte 0"),
        (b"<html></html>", "gesmes Envelope"),
        (DAILY[:-20], "damaged"),
        (xml(b"?>", b'?><!DOCTYPE x [<!ENTITY a "b">]>'), "document type"),
        (xml(b"2026-03-13", b"13.03.2026"), "is no day"),
        (xml(b"'1.0842'", b"'1,0842'"), "2026-03-13: rate '1,0842'"),
        (xml(b"'1.0842'", b"'0'"), "above 0"),
        (xml(b"rate='1.0842'", b""), "rate ''"),
        (xml(b"'USD'", b"'GBP'"), "GBP of 2026-03-13 is there twice"),
        (xml(b"'USD'", b"'EUR'"), "'EUR' is no currency"),
        (xml(b"'USD'", b"'usd'"), "'usd' is no currency"),
        (xml(b"http://www.ecb.int", b"http://www.other.int"), "no rate"),
        (table(b"Date", b"Day"), "line 1"),
        (table(b"1.0810", b"1.0810,7"), "line 3 has 8 columns"),
        (table(b"1.0810,", b""), "line 3 has 6 columns"),
        (table(b"160.10,0.85330,N/A,N/A,", b"160.10,0.85330,N/A,N/A"), "line 3 has 6 columns"),
        (table(b"160.10,0.85330,N/A,N/A,", b"160.10,0.85330,N/A,N/A,1"), "line 3 has 7 columns"),
        (table(b"HRK,", b"HRK,,"), "line 2 has 7 columns"),
        (table(b"1.0810", b"-1.0810"), "line 3, USD: rate '-1.0810'"),
        (table(b"2026-03-12", b"2026-03-13"), "there twice"),
        (table(b"2026-03-12", b"2026-02-30"), "'2026-02-30' is no day"),
        (b"Date,USD,\n2026-03-13,N/A,\n", "no rate"),
        (packed(HISTORY, "a.csv", "b.csv"), "2 files"),
        (packed(HISTORY, "a.txt"), "expected one .csv"),
        (packed(HISTORY, "a.csv")[:-40], "damaged"),
        (packed(b"", "a.csv"), "line 1"),
    ],
)
def test_a_bad_file_says_where_and_nothing_of_it_counts(data: bytes, said: str) -> None:
    with pytest.raises(EcbFileError) as caught:
        read_reference_rates(data)
    assert said in str(caught.value)


def test_sizes_are_bounded_and_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecb_rates, "MOST_BYTES", 2_000)
    bomb = packed(HISTORY + b"\n" * 100_000, "a.csv")
    assert len(bomb) < 2_000
    with pytest.raises(EcbFileError, match="in the zip has more than"):
        read_reference_rates(bomb)
    with pytest.raises(EcbFileError, match="at most 2000"):
        read_reference_rates(HISTORY * 20)
    monkeypatch.setattr(ecb_rates, "MOST_DAYS", 2)
    with pytest.raises(EcbFileError, match="more than 2 days"):
        read_reference_rates(HISTORY)
