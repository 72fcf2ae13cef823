"""What happens to whose calls when money is short."""

import json
from pathlib import Path

import msgspec
import pytest

from bursar_sidecar.settings import SettingsError, load_settings
from bursar_sidecar.shortages import Shortage, Shortages
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.sidecar_bench import CHAT, Bench, chat_answer, error_of

SHORTAGE = '[[shortages]]\nspenders = ["teams/night-*"]\nwhen_short = "wait"\n'
ENOUGH = {"BURSAR_SIDECAR_KEY": "bs-x"}
NIGHT = Shortage(spenders=("teams/night-*", "users/ada"), when_short="wait")
FIRM = Shortage(spenders=("keys/*",), when_short="refuse")


def loaded(tmp_path: Path, text: str) -> tuple[Shortage, ...]:
    config = tmp_path / "sidecar.toml"
    config.write_text(text)
    return load_settings(ENOUGH, config).shortages


def test_tables_are_read(tmp_path: Path) -> None:
    (line,) = loaded(tmp_path, SHORTAGE)
    assert (line.spenders, line.when_short) == (("teams/night-*",), "wait")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (SHORTAGE.replace('"wait"', '"later"'), "when_short"),
        (SHORTAGE.replace('["teams/night-*"]', "[]"), "spenders"),
        (SHORTAGE.replace('["teams/night-*"]', '"teams/x"'), "spenders"),
        (SHORTAGE.replace('when_short = "wait"', ""), "when_short"),
        (SHORTAGE + "keys = []", "keys"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, text)
    (fault,) = caught.value.faults
    assert fault.partition(" ")[0].rstrip(":") == f"shortages[0].{field}"


@pytest.mark.parametrize(
    ("named", "way"),
    [
        ({"team": "teams/night-jobs"}, "wait"),
        ({"user": "users/ada"}, "wait"),
        ({"project": "projects/night-jobs"}, "refuse"),
        ({"team": "teams/day"}, "refuse"),
        ({"key": "k-1"}, "clamp"),
    ],
)
def test_the_first_that_names_a_spender_holds(named: dict[str, str], way: str) -> None:
    shortages = Shortages("clamp", (NIGHT, FIRM))
    who = msgspec.structs.replace(spender(), **named)
    assert [shortages.way_of(who) for _ in range(2)] == [way, way]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar_sidecar.shortages.MAX_REMEMBERED", 3)
    shortages = Shortages("clamp", (NIGHT,))
    for number in range(10):
        who = msgspec.structs.replace(spender(), key=f"keys/k-{number}")
        assert shortages.way_of(who) == "clamp"
        assert len(shortages._ways) <= 3


@pytest.mark.parametrize(
    ("team", "clamped"), [("teams/night-jobs", False), ("teams/chat", True), ("", True)]
)
async def test_a_call_is_served_as_its_spender_is(team: str, clamped: bool) -> None:
    spenders = {KEY: msgspec.structs.replace(spender(), team=team)}
    bench = Bench(FakeDesk(300_000, spenders=spenders), when_short="clamp", shortages=(NIGHT,))
    bench.post({**CHAT, "max_tokens": 1_000})
    if clamped:
        call = await bench.provider.request()
        assert json.loads(call.requests[0])["max_tokens"] < 1_000
        call.send_json(chat_answer())
        assert "x-bursar-clamped-output" in (await bench.answered()).headers
    else:
        assert error_of(await bench.answered())["code"] == "budget_exhausted"


async def test_who_is_to_be_refused_does_not_wait() -> None:
    bench = Bench(shortages=(FIRM,))
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer())
    await bench.answered()
    assert bench.desk.calls[0].may_wait is False
    bench.proxy.apply(msgspec.structs.replace(bench.settings, shortages=()))
    bench.post(CHAT)
    (await bench.provider.request(2)).send_json(chat_answer())
    await bench.answered(2)
    assert bench.desk.calls[1].may_wait is True
