"""What the command line refuses, how it says so, and with which exit code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bursar_cli.__main__ import COMMANDS, NOUNS, build_app
from bursar_cli.up import command
from tests.fakes.admin_server import ADMIN_KEY, AdminServer

# Refused at once by every kernel: port 1 of this machine, where nobody listens.
NOBODY = "127.0.0.1:1"
BUDGET = ("budget", "create", "--scope", "team/a", "--limit", "1USD", "--window", "daily")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BURSAR_ADDRESS", "BURSAR_ADMIN_KEY", "BURSAR_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[AdminServer]:
    with AdminServer() as running:
        running.state.add_organization("acme")
        yield running


def run(*arguments: str) -> Any:
    return CliRunner().invoke(build_app(), list(arguments))


def changed(option: str, value: str) -> list[str]:
    """The command that makes a budget, with one option changed."""
    arguments = list(BUDGET)
    if option in arguments:
        arguments[arguments.index(option) + 1] = value
        return arguments
    return [*arguments, option, value]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (changed("--limit", "-5"), "--limit: amount '-5' must not carry a sign"),
        (changed("--limit", "1e3"), "--limit: amount '1e3'"),
        (changed("--limit", "1.0000000001"), "more than 9 decimals"),
        (changed("--limit", "5XYZ"), "--limit: currency 'XYZ'"),
        (changed("--limit", "99999999999999"), "--limit: amount"),
        (changed("--window", "fortnightly"), "--window: window 'fortnightly'"),
        (changed("--window", "0d"), "--window:"),
        (changed("--window", "calendar:month@31"), "--window:"),
        (changed("--time-zone", "Mars/Base"), "--time-zone: time zone 'Mars/Base'"),
        (changed("--scope", "search"), "--scope: 'search' is not a scope"),
        (changed("--scope", "squad/search"), "--scope: 'squad/search' is not a scope"),
        (changed("--scope", "team/"), "--scope: 'team/' is not a scope"),
        ([*changed("--scope", "org/acme"), "--org", "beta"], "--scope: organizations/acme is not"),
        (["budget", "update", "b-1"], "give at least one of --limit"),
        (["budget", "raise", "b-1"], "--by or --to: give one of them"),
        (["budget", "show", "teams/x"], "NAME: 'teams/x' is not a name like budgets/NAME"),
        (["key", "create", "--expires", "yesterday"], "--expires: 'yesterday' is not in the futu"),
        (["key", "create", "--expires", "soon"], "--expires: 'soon' is no time"),
        (["key", "create", "--expires", "9999999d"], "--expires: '9999999d' is too long"),
        (["key", "create", "--metadata", "novalue"], "--metadata: 'novalue' is not of the form"),
        (["key", "create", "--metadata", "a=1", "--metadata", "a=2"], "'a' is given twice"),
        (["key", "create", "--max-budget", "x"], "--max-budget: amount 'x'"),
        (["key", "create", "--max-budget", "1USD", "--window", "x"], "--window: window 'x'"),
        (["key", "create", "--window", "1d"], "--window: needs --max-budget"),
        (["key", "create", "--team", "users/x"], "--team: 'users/x'"),
        (["key", "list", "--org", "teams/x"], "--org: 'teams/x'"),
        (["spend", "show", "--by", "mood"], "--by: 'mood' is not one of org, team"),
        (["spend", "show", "--by", "key,team,day,tag"], "--by: at most 3"),
        (["spend", "show", "--by", "key,key"], "--by: each dimension"),
        (["spend", "show", "--since", "31/01/2026"], "--since: '31/01/2026' is no time"),
        (["spend", "show", "--since", "1d", "--until", "2d"], "--until: '2d' is not after"),
        (["spend", "show", "--time-zone", "x"], "--time-zone:"),
        (["ledger", "list", "--until", "2026-13-01"], "--until: '2026-13-01' is no time"),
        (["price", "set", "gpt-4o"], "--provider: say whose model"),
        (["price", "set", "openai/gpt-4o"], "--input: give at least one rate"),
        (["price", "set", "openai/gpt-4o", "--input", "-1"], "--input: '-1' is no rate"),
        (["price", "set", "openai/gpt-4o", "--rate", "smell=1"], "--rate: 'smell' is no meter"),
        (["price", "set", "openai/gpt-4o", "--rate", "input"], "--rate: 'input' is not of the"),
        (["price", "set", "a/b", "--input", "1", "--free"], "--free: a free model has no rates"),
        (["price", "quote"], "MODEL or --rows: give one of them"),
        (["price", "quote", "--rows", "nothere.jsonl"], "--rows: nothere.jsonl: No such file"),
        (["team", "list", "--address", "http://x:1"], "must be host:port without a scheme"),
        (["team", "list", "--address", "x"], "is not of the form host:port"),
        (["team", "list", "--address", "x:99999"], "is not of the form host:port"),
        (["team", "list", "--admin-key", "ba-\n"], "admin key"),
        (["team", "list", "--admin-key", "ba-\u00fc"], "admin key"),
        (["team", "create", "\udcff"], "can't be written as UTF-8"),
        (["spend", "show", "--since", "0001-01-01", "--time-zone", "Asia/Tokyo"], "--since: "),
        (["team", "list", "--tls-ca", "nothere.pem"], "--tls-ca: nothere.pem: No such file"),
    ],
)
def test_what_is_typed_wrong_is_named_and_nothing_is_sent(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.startswith(f"bursar {arguments[0]} {arguments[1]}: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["team", "nonsense"],
        ["team", "create"],
        ["team", "list", "--nonsense"],
        ["team", "list", "-o", "xml"],
        ["spend", "show", "--limit", "many"],
        ["price", "quote", "gpt-4o", "--input", "99999999999999999999"],
        ["price", "set", "a/b", "--free", "--max-input", "99999999999999999999"],
    ],
)
def test_unknown_words_are_bad_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_an_unreachable_control_plane_is_exit_code_3() -> None:
    result = run("key", "list", "--address", NOBODY)
    assert result.exit_code == 3
    assert result.stderr.startswith(
        "bursar key list: the control plane at 127.0.0.1:1 cannot be reached"
    )
    assert result.stderr.count("\n") == 1


def test_a_refusal_is_one_line_with_reason_and_fields(server: AdminServer) -> None:
    server.state.refuse_budgets = True
    here = ("--address", server.address, "--admin-key", ADMIN_KEY)
    result = run(*BUDGET, *here)
    assert result.exit_code == 1
    assert result.stderr == (
        "bursar budget create: refused: INVALID_ARGUMENT: the budget can't be made "
        "(budget.limit: 0 or more in EUR, not USD)\n"
    )
    missing = run("key", "show", "k-none", *here)
    assert missing.exit_code == 1
    assert missing.stderr == ("bursar key show: refused: NOT_FOUND: key keys/k-none is not there\n")


def test_a_wrong_admin_key_says_where_it_comes_from(server: AdminServer) -> None:
    result = run("key", "list", "--address", server.address)
    assert result.exit_code == 1
    assert "KEY_UNKNOWN" in result.stderr
    assert "BURSAR_ADMIN_KEY" in result.stderr


def test_a_local_bursar_up_needs_no_environment(server: AdminServer, tmp_path: Path) -> None:
    data = tmp_path / ".bursar"
    data.mkdir()
    (data / "ready.json").write_text(f'{{"grpc": "{server.address}"}}')
    (data / "secrets.json").write_text(f'{{"admin_key": "{ADMIN_KEY}"}}')
    assert run("team", "create", "search").exit_code == 0
    elsewhere = run("team", "list", "--address", "localhost:" + server.address.split(":")[1])
    assert elsewhere.exit_code == 1, "the local admin key went to an address that was typed"


def test_a_broken_data_directory_is_none(tmp_path: Path) -> None:
    data = tmp_path / ".bursar"
    data.mkdir()
    (data / "ready.json").write_text("[")
    (data / "secrets.json").write_text("[]")
    assert run("team", "list", "--address", NOBODY).exit_code == 3


def test_the_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("bursar 0.")


# `bursar server --help` is answered by the server's own program, which replaces this one.
@pytest.mark.parametrize("name", [row[0] for row in COMMANDS if row[0] != "server"])
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert name in result.stdout


def test_every_verb_shows_an_example() -> None:
    program: Any = get_command(build_app())
    nouns = [(name, program.commands[name]) for name, _, _, panel in COMMANDS if panel == NOUNS]
    for name, noun in nouns:
        assert noun.commands, f"{name} has no verbs"
        for word, each in noun.commands.items():
            if hasattr(each, "commands"):  # a noun below it
                nouns.append((f"{name} {word}", each))
                continue
            example = each.help.partition("\n\n")[2]
            assert f"bursar {name} {word}" in example, f"{name} {word} lacks an example"


def test_help_of_the_program_imports_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    program: Any = get_command(build_app())
    program.main(["--help"], prog_name="bursar", standalone_mode=False)
    assert "simulate-provider" in capsys.readouterr().out
    assert [name for name, lazy in program.commands.items() if lazy._loaded is not None] == []


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        ([], []),
        (["--config", "sidecar.toml"], ["--config", "sidecar.toml"]),
        (["run", "--config", "sidecar.toml"], ["--config", "sidecar.toml"]),
        (["run", "--help"], ["--help"]),
    ],
)
def test_sidecar_without_a_verb_runs_one(
    typed: list[str], passed_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(command, "run_sidecar", ran.append)
    assert run("sidecar", *typed).exit_code == 0
    assert ran == [passed_on]
