"""The commands against a fake control plane: what is sent, and what people and programs read."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bursar.v1 import (
    alerts_pb2,
    budgets_pb2,
    charges_pb2,
    identity_pb2,
    ledger_pb2,
    prices_pb2,
    reports_pb2,
    sidecars_pb2,
)
from bursar_cli.__main__ import build_app
from tests.fakes.admin_server import at, money
from tests.fakes.admin_state import AdminState
from tests.unit.conftest import Bursar

UNIT = 1_000_000_000


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("noun", ["team", "project", "user"])
def test_a_member_lives_from_create_to_delete(bursar: Bursar, noun: str) -> None:
    made = bursar(noun, "create", "one", "--metadata", "a=b", "-o", "json")
    assert made["name"] == f"{noun}s/one"
    assert made["organization"] == "organizations/acme"
    assert made["metadata"] == {"a": "b"}
    changed = bursar(noun, "update", f"{noun}s/one", "--disabled", "--metadata", "", "-o", "json")
    assert changed["disabled"] is True
    assert changed["metadata"] == {}
    assert "yes" in bursar(noun, "list")
    assert [row["name"] for row in bursar(noun, "list", "-o", "json")] == [f"{noun}s/one"]
    assert bursar(noun, "delete", f"{noun}/one") == f"deleted {noun}s/one\n"
    assert bursar(noun, "list", "-o", "json") == []
    assert bursar(noun, "list") == "none\n"


def test_organizations(bursar: Bursar) -> None:
    assert bursar("org", "create", "beta", "--currency", "JPY", "-o", "json")["currency"] == "JPY"
    assert (
        bursar("org", "update", "beta", "--display-name", "B", "-o", "json")["displayName"] == "B"
    )
    names = [row["name"] for row in bursar("org", "list", "-o", "json")]
    assert names == ["organizations/acme", "organizations/beta", "organizations/platform"]
    assert "organizations/beta" in bursar("org", "show", "organizations/beta")
    bursar("org", "delete", "beta")
    assert len(csv_rows(bursar("org", "list", "-o", "csv"))) == 2


def test_lists_turn_all_pages(bursar: Bursar) -> None:
    for place in range(5):
        bursar("team", "create", f"t{place}")
    assert len(bursar("team", "list", "-o", "json")) == 5


def test_a_key_and_its_budget_in_one_command(bursar: Bursar, state: AdminState) -> None:
    bursar("team", "create", "search")
    made = bursar(
        *("key", "create", "--team", "search", "--models", "gpt-4o*,openai/*", "--expires", "90d"),
        *("--metadata", "owner=ada", "--tag", "batch", "--max-budget", "10", "--window", "1d"),
        *("-o", "json"),
    )
    assert made["key"].startswith("bk-")
    assert made["name"].startswith("keys/k-")
    assert made["team"] == "teams/search"
    assert made["allowedModels"] == ["gpt-4o*", "openai/*"]
    assert made["tags"] == ["batch"]
    assert made["expireTime"]
    budget = state.budgets.rows["organizations/acme", made["budget"]]
    assert budget.scope == made["name"]
    assert budget.limit == money(10 * UNIT, "EUR")
    assert budget.window.from_first_call.count == 1
    assert budget.window.from_first_call.unit == budgets_pb2.TIME_UNIT_DAY


def test_a_key_whose_budget_is_refused_is_taken_back(bursar: Bursar, state: AdminState) -> None:
    state.refuse_budgets = True
    bursar("key", "create", "--max-budget", "10USD", "--window", "1d", code=1)
    assert state.keys.rows == {}


def test_the_secret_of_a_key_stands_in_the_table_and_in_csv(bursar: Bursar) -> None:
    assert "bk-secret-1" in bursar("key", "create", "ci")
    row = csv_rows(bursar("key", "create", "-o", "csv"))[0]
    assert row["key"] == "bk-secret-2"
    assert row["name"] == "keys/k-2"
    assert "bk-" not in bursar("key", "show", "ci", "-o", "json")["secretPrefix"].removeprefix("bk")


def test_a_key_is_changed_rotated_and_revoked(bursar: Bursar, state: AdminState) -> None:
    bursar("key", "create", "ci", "--expires", "12h", "--models", "gpt-4o")
    changed = bursar("key", "update", "ci", "--expires", "never", "--models", "", "-o", "json")
    assert "expireTime" not in changed
    assert changed["allowedModels"] == []
    assert set(state.seen(identity_pb2.UpdateKeyRequest).update_mask.paths) == {
        "allowed_models",
        "expire_time",
    }
    assert bursar("key", "rotate", "keys/ci", "-o", "json")["key"] == "bk-rotated"
    assert "revokeTime" in bursar("key", "revoke", "ci", "-o", "json")
    assert "revoked" in bursar("key", "list")
    bursar("key", "delete", "ci")
    bursar("key", "list", "--team", "search", "--user", "ada")
    asked = state.seen(identity_pb2.ListKeysRequest)
    assert (asked.team, asked.user) == ("teams/search", "users/ada")


@pytest.mark.parametrize(
    ("typed", "scope", "organization"),
    [
        ("team/search", "teams/search", "organizations/acme"),
        ("teams/search", "teams/search", "organizations/acme"),
        ("project/answers", "projects/answers", "organizations/acme"),
        ("user/ada", "users/ada", "organizations/acme"),
        ("key/k-1", "keys/k-1", "organizations/acme"),
        ("org/acme", "organizations/acme", "organizations/acme"),
        ("platform", "organizations/platform", "organizations/platform"),
    ],
)
def test_budgets_for_every_scope(bursar: Bursar, typed: str, scope: str, organization: str) -> None:
    made = bursar(
        *("budget", "create", "--scope", typed, "--limit", "12.50", "--window", "monthly"),
        *("--model", "gpt-4o*", "--provider", "openai,azure", "--soft", "-o", "json"),
    )
    assert made["scope"] == scope
    assert made["organization"] == organization
    currency = "USD" if typed == "platform" else "EUR"
    assert made["limit"] == {"nanos": "12500000000", "currency": currency}
    assert made["selector"] == {"models": ["gpt-4o*"], "providers": ["openai", "azure"]}
    assert made["enforcement"] == "ENFORCEMENT_SOFT"
    assert made["window"]["calendar"]["unit"] == "TIME_UNIT_MONTH"


def test_a_budget_is_changed_and_raised(bursar: Bursar) -> None:
    made = bursar(
        *("budget", "create", "main", "--scope", "org/acme", "--limit", "10"),
        *("--window", "daily", "--time-zone", "Europe/Berlin", "-o", "json"),
    )
    assert made["name"] == "budgets/main"
    assert made["window"]["timeZone"] == "Europe/Berlin"

    def limit(*arguments: str) -> int:
        return int(bursar("budget", *arguments, "-o", "json")["limit"]["nanos"])

    assert limit("update", "main", "--limit", "5") == 5 * UNIT
    assert limit("raise", "budgets/main", "--by", "2.5") == 7_500_000_000
    assert limit("raise", "main", "--to", "20EUR") == 20 * UNIT
    assert bursar("budget", "update", "main", "--disabled", "-o", "json")["disabled"] is True
    bursar("budget", "raise", "main", "--to", "19", code=2)
    bursar("budget", "raise", "main", "--by", "1USD", code=2)
    bursar("budget", "raise", "main", "--by", "1", "--to", "30", code=2)
    bursar("budget", "delete", "main")


def standing_budget() -> budgets_pb2.Budget:
    budget = budgets_pb2.Budget(
        name="budgets/b-1",
        organization="organizations/acme",
        scope="teams/search",
        limit=money(10 * UNIT, "EUR"),
        enforcement=budgets_pb2.ENFORCEMENT_HARD,
    )
    budget.window.calendar.unit = budgets_pb2.TIME_UNIT_MONTH
    budget.standing.limit.CopyFrom(budget.limit)
    budget.standing.settled.CopyFrom(money(7_500_000_000, "EUR"))
    budget.standing.outstanding.CopyFrom(money(UNIT, "EUR"))
    budget.standing.window_end_time.CopyFrom(at("2099-01-01T00:00:00Z"))
    return budget


def test_a_budget_shows_how_it_stands(bursar: Bursar, state: AdminState) -> None:
    state.budgets.rows["organizations/acme", "budgets/b-1"] = standing_budget()
    table = bursar("budget", "list")
    for text in ("10.00 EUR", "7.50 EUR", "1.00 EUR", "2.50 EUR", "███████░░░", "75 %", "monthly"):
        assert text in table
    row = csv_rows(bursar("budget", "list", "-o", "csv"))[0]
    assert row["settled"] == "7.50"
    assert row["settled_currency"] == "EUR"
    assert row["remaining"] == "2.50"
    assert row["used_percent"] == "75"
    assert row["window_end"] == "2099-01-01T00:00:00Z"
    shown = bursar("budget", "show", "b-1", "-o", "yaml")
    assert yaml.safe_load(shown)["standing"]["settled"] == {
        "nanos": "7500000000",
        "currency": "EUR",
    }


def test_the_currency_of_an_amount_is_asked_only_when_it_was_not_typed(
    bursar: Bursar, state: AdminState
) -> None:
    options = ("--scope", "user/ada", "--window", "lifetime", "-o", "json")
    bursar("budget", "create", "--limit", "5CHF", *options)
    assert state.seen(budgets_pb2.CreateBudgetRequest).budget.limit.currency == "CHF"
    assert not any(isinstance(r, identity_pb2.ListOrganizationsRequest) for r in state.requests)
    state.add_organization("beta")
    bursar("budget", "create", "--limit", "5", *options, code=2)
    bursar("budget", "create", "--limit", "5", "--org", "beta", *options)
    assert state.seen(budgets_pb2.CreateBudgetRequest).budget.limit.currency == "USD"


def test_prices(bursar: Bursar, state: AdminState) -> None:
    made = bursar(
        *("price", "set", "openai/gpt-4o-mini", "--input", "0.15", "--output", "0.6"),
        *("--rate", "input>200000=0.30", "--rate", "output@batch=0.3", "--rate", "request=0.01/1"),
        *("--max-output", "16384", "-o", "json"),
    )
    assert made["currency"] == "EUR"
    sent = state.seen(prices_pb2.SetPriceRequest).price
    told = [(each.meter, each.rate, each.per) for each in sent.components]
    assert told == [
        ("input", "0.15", 1_000_000),
        ("output", "0.6", 1_000_000),
        ("input", "0.30", 1_000_000),
        ("output", "0.3", 1_000_000),
        ("request", "0.01", 1),
    ]
    assert sent.components[2].condition.input_above_llm_tokens == 200_000
    assert sent.components[3].condition.service_tier == "batch"
    assert "output@batch 0.30" in bursar("price", "show", "openai/gpt-4o-mini")
    table = bursar("price", "list", "--custom", "--model", "gpt*")
    assert "0.15" in table
    assert "0.60" in table
    assert state.seen(prices_pb2.ListPricesRequest).custom_only
    history = bursar("price", "history", "gpt-4o-mini", "--provider", "openai", "-o", "json")
    assert history[0]["version"] == "custom@1"
    assert "priceLists/builtin" in bursar("price", "lists")
    bursar("price", "delete", "openai/gpt-4o-mini")
    assert bursar("price", "list") == "no prices\n"
    bursar("price", "set", "mine/llama", "--free", "--currency", "USD")
    assert [each.rate for each in state.seen(prices_pb2.SetPriceRequest).price.components] == [
        "0",
        "0",
    ]


def test_a_quote_of_the_control_plane(bursar: Bursar, state: AdminState) -> None:
    table = bursar("price", "quote", "gpt-4o-mini", "--input", "1000", "--output", "5")
    assert "0.00015 USD" in table
    assert "0.50 EUR (one USD is 0.92 EUR, with the fee of 0.25 EUR a call)" in table
    assert state.seen(prices_pb2.QuotePriceRequest).usage.output_llm_tokens == 5
    answer = bursar("price", "quote", "gpt-4o-mini", "--input", "1", "-o", "json")
    assert answer["exactCost"] == "0.00015"


def test_quotes_of_rows_need_no_server(bursar: Bursar, tmp_path: Path, state: AdminState) -> None:
    rows = tmp_path / "rows.jsonl"
    price = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "mode": "chat"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 10}
    lines = [json.dumps({"price": price, "usage": usage}), "nonsense"]
    rows.write_text("\n".join(lines))
    answers = bursar("price", "quote", "--rows", str(rows)).splitlines()
    assert "0.001" in answers[-2]
    written = CliRunner().invoke(
        build_app(), ["price", "quote", "--rows", str(rows), "-o", "json", "--address", "nobody:1"]
    )
    first, second = map(json.loads, written.stdout.splitlines())
    assert first == {"input_cost": "0.001", "output_cost": "0.00002"}
    assert "JSON" in second["error"]
    assert state.requests == []
    assert csv_rows(bursar("price", "quote", "--rows", str(rows), "-o", "csv"))[1]["error"]


def held(nanos: int) -> sidecars_pb2.HeldAllowance:
    return sidecars_pb2.HeldAllowance(
        budget="budgets/b-1",
        granted=money(nanos),
        returned=money(0),
        settled=money(0),
        outstanding=money(nanos),
        in_doubt=money(nanos // 4),
    )


def test_a_budget_shows_who_holds_it(bursar: Bursar, state: AdminState) -> None:
    bursar("budget", "create", "b-1", "--scope", "org/acme", "--limit", "9", "--window", "daily")
    budget = state.budgets.rows["organizations/acme", "budgets/b-1"]
    assert "Sidecar" not in bursar("budget", "show", "b-1")
    budget.standing.limit.CopyFrom(budget.limit)
    budget.standing.holders.add(
        sidecar="sidecars/eu",
        session_epoch=7,
        outstanding=money(3 * UNIT, "EUR"),
        in_doubt=money(UNIT, "EUR"),
        last_seen_time=at("2001-01-01T00:00:00Z"),
    )
    table = bursar("budget", "show", "b-1")
    for text in ("sidecars/eu", "3.00 EUR", "1.00 EUR", "2001-01-01"):
        assert text in table


def test_sidecars(bursar: Bursar, state: AdminState) -> None:
    assert bursar("sidecar", "create", "eu") == "bs-secret\n"
    assert bursar("sidecar", "create", "us", "-o", "json")["key"] == "bs-secret"
    sidecar = state.sidecars.rows["organizations/acme", "sidecars/eu"]
    sidecar.build = "bursar-sidecar/0.1.0"
    sidecar.connected = True
    sidecar.sessions.add(
        session_epoch=7,
        state=sidecars_pb2.SESSION_STATE_OPEN,
        allowances=[held(UNIT), held(2 * UNIT)],
        last_seen_time=at("2001-01-01T00:00:00Z"),
    )
    table = bursar("sidecar", "list")
    for text in ("sidecars/eu", "connected", "bursar-sidecar/0.1.0", "2001-01-01", "3.00 USD"):
        assert text in table
    shown = bursar("sidecar", "show", "eu")
    for text in ("budgets/b-1", "open", "2.00 USD", "0.50 USD", "2001-01-01"):
        assert text in shown
    assert bursar("sidecar", "rotate", "eu") == "bs-rotated\n"
    assert bursar("sidecar", "disable", "eu", "-o", "json")["disabled"] is True
    assert bursar("sidecar", "enable", "eu", "-o", "json")["disabled"] is False
    drained = bursar("sidecar", "drain", "eu", "--wait", "5", "-o", "json")
    assert drained["draining"] is True
    assert "drained" in bursar("sidecar", "list")
    assert bursar("sidecar", "resume", "eu", "-o", "json")["draining"] is False


def test_a_drain_is_waited_for_as_long_as_asked(
    bursar: Bursar, state: AdminState, waits: list[float]
) -> None:
    bursar("sidecar", "create", "eu")
    sidecar = state.sidecars.rows["organizations/acme", "sidecars/eu"]
    sidecar.sessions.add(session_epoch=7, allowances=[held(UNIT)])
    state.looks_until_drained = 20
    assert "sidecars/eu" in bursar("sidecar", "drain", "eu")
    assert waits == []
    bursar("sidecar", "drain", "eu", "--wait", "5", code=1)
    assert sum(waits) == 5
    bursar("sidecar", "drain", "eu", "--wait", "60")
    assert sum(waits) == 10  # twenty looks, each half a second after the one before


def entry(n: int) -> ledger_pb2.Entry:
    return ledger_pb2.Entry(
        charge_id=f"7-{n}",
        kind=charges_pb2.SETTLEMENT_KIND_FINAL,
        amount=money(15_000),
        debit_account="spend/acme",
        credit_account="payable/openai",
        key="keys/k-1",
        model="gpt-4o-mini",
        usage=charges_pb2.Usage(input_llm_tokens=100, estimate_reason="cut"),
    )


def test_the_ledger_is_listed(bursar: Bursar, state: AdminState) -> None:
    state.entries = [entry(n) for n in range(5)]
    table = bursar("ledger", "list", "--since", "24h", "--key", "k-1", "--limit", "3")
    assert "7-2" in table
    assert "7-3" not in table
    assert "0.000015 USD" in table
    assert "final, estimated" in table
    asked = state.seen(ledger_pb2.ListEntriesRequest)
    assert asked.key == "keys/k-1"
    assert asked.HasField("since_time")
    assert len(bursar("ledger", "list", "--limit", "0", "-o", "json")) == 5
    assert csv_rows(bursar("ledger", "list", "-o", "csv"))[0]["amount"] == "0.000015"


def test_a_session_is_resolved(bursar: Bursar, state: AdminState) -> None:
    window = ledger_pb2.ResolvedWindow(budget="budgets/b-1", amount=money(3_000_000_000))
    state.resolved = ledger_pb2.ResolveSessionResponse(name="resolutions/9", windows=[window])
    told = bursar("ledger", "resolve", "17", "--spent", "--reason", "disk gone")
    for text in ("budgets/b-1", "3.00 USD", "session 17 is resolved as spent"):
        assert text in told
    asked = state.seen(ledger_pb2.ResolveSessionRequest)
    assert (asked.session_epoch, asked.reason) == (17, "disk gone")
    assert asked.decision == ledger_pb2.SESSION_DECISION_SPENT
    assert asked.request_id
    csv = bursar("ledger", "resolve", "17", "--free", "--reason", "never used", "-o", "csv")
    assert csv_rows(csv)[0]["budget"] == "budgets/b-1"
    said = bursar("ledger", "resolve", "17", "--free", "--reason", "never used", "-o", "json")
    assert said["name"] == "resolutions/9"
    asked = state.requests[-1]
    assert asked.decision == ledger_pb2.SESSION_DECISION_FREE


def test_a_decision_is_one_of_two(bursar: Bursar) -> None:
    for options in ((), ("--spent", "--free")):
        bursar("ledger", "resolve", "17", *options, "--reason", "x", code=2)


def test_spend_by_several_dimensions(bursar: Bursar, state: AdminState) -> None:
    row = reports_pb2.SpendRow(
        values=["teams/search", "", "2026-01-31"], cost=money(2 * UNIT), call_count=1200
    )
    state.spend = reports_pb2.QuerySpendResponse(
        rows=[row], total=reports_pb2.SpendRow(cost=money(4 * UNIT), call_count=2000)
    )
    table = bursar("spend", "show", "--by", "team,customer", "--by", "day", "--since", "7d")
    for text in ("teams/search", "2.00 USD", "50 %", "1,200", "total 4.00 USD in 2,000 calls"):
        assert text in table
    asked = state.seen(reports_pb2.QuerySpendRequest)
    assert list(asked.group_by) == [
        reports_pb2.SPEND_DIMENSION_TEAM,
        reports_pb2.SPEND_DIMENSION_CUSTOMER,
        reports_pb2.SPEND_DIMENSION_DAY,
    ]
    answer = bursar("spend", "show", "--by", "team,customer", "-o", "json")
    assert answer["rows"][0]["callCount"] == "1200"
    assert answer["total"]["cost"]["nanos"] == "4000000000"
    assert csv_rows(bursar("spend", "show", "--by", "team", "-o", "csv"))[0]["cost"] == "2.00"
    assert "4.00 USD" in bursar("spend", "show")


def test_alerts(bursar: Bursar, state: AdminState) -> None:
    event = alerts_pb2.Event(
        id=3,
        kind=alerts_pb2.EVENT_KIND_SOFT_LIMIT_CROSSED,
        budget="budgets/b-1",
        summary="crossed \x1b[31mred",
        amount=money(UNIT),
    )
    state.events = [event]
    table = bursar("alert", "list")
    assert "soft limit crossed" in table
    assert r"crossed \x1b[31mred" in table
    assert bursar("alert", "list", "-o", "json")[0]["id"] == "3"
