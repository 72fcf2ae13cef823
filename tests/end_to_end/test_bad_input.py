"""Bad input from every entrance of a running Bursar: a clear answer, no charge, and it goes on."""

import gzip
import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import (
    budgets_pb2,
    identity_pb2,
    ledger_pb2,
    money_pb2,
    prices_pb2,
    reports_pb2,
    sidecars_pb2,
)
from bursar.v1.budgets_pb2_grpc import BudgetServiceStub
from bursar.v1.identity_pb2_grpc import KeyServiceStub, TeamServiceStub
from bursar.v1.ledger_pb2_grpc import LedgerServiceStub
from bursar.v1.prices_pb2_grpc import PriceServiceStub
from bursar.v1.reports_pb2_grpc import ReportServiceStub
from bursar.v1.sidecars_pb2_grpc import SidecarServiceStub
from tests.fakes.stack import Stack, running

ACME = "organizations/acme"
CHAT = "/v1/chat/completions"
PLATFORM = "organizations/platform"
LONG = "x" * 100_000
Answer = tuple[int, dict[str, str]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("bad-input")) as stack:
        yield stack
        for log in sorted((stack.directory / "data" / "logs").glob("*.log")):
            assert "Traceback" not in log.read_text(), f"{log.name}: {log.read_text()[-3000:]}"


def body(**fields: object) -> bytes:
    """A sound call, but for `fields`."""
    call = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    return json.dumps({**call, "max_tokens": 5, **fields}).encode()


def post(
    stack: Stack, content: bytes, path: str = CHAT, key: str | None = None, **headers: str
) -> Answer:
    """(status, the error) of one request."""
    address = urllib.parse.urlsplit(stack.ready["sidecar"]).netloc
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        key = stack.ready["demo_key"] if key is None else key
        all_headers = {"authorization": f"Bearer {key}", **headers}
        named = {name.replace("_", "-"): value for name, value in all_headers.items()}
        connection.request("POST", path, content, named)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("error", {})
    finally:
        connection.close()


def raw(stack: Stack, head: bytes, content: bytes = b"") -> int:
    """The status of the answer to these very bytes."""
    address = urllib.parse.urlsplit(stack.ready["sidecar"])
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    connection.connect()
    key = stack.ready["demo_key"].encode()
    connection.sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key
        + b"\r\n" + head + b"\r\n\r\n" + content
    )  # fmt: skip
    answer = http.client.HTTPResponse(connection.sock, method="POST")
    try:
        answer.begin()
        return answer.status
    finally:
        answer.close()
        connection.close()


def charge_number(stack: Stack) -> int:
    """Makes a sound call; the number of its charge, which counts every reservation."""
    call = urllib.request.Request(
        stack.ready["sidecar"] + CHAT,
        body(),
        {"authorization": f"Bearer {stack.ready['demo_key']}"},
    )
    with urllib.request.urlopen(call, timeout=20) as answer:
        return int(answer.headers["x-bursar-charge-id"].partition("-")[2])


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (body() + b"x", None),
        (body().replace(b"Hi", b"\xff"), None),
        (body().replace(b"Hi", b"\\ud800"), None),
        (b'{"model": "gpt-4o-mini", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (body()[:-1] + b', "max_token\\u0073": 900}', "max_tokens"),
        (body(model=None), "model"),
        (body(model=5), "model"),
        (body(model="m" * 300), "model"),
        (body(model="gpt\x00"), "model"),
        (body(messages="Hi"), "messages"),
        (body(messages=[5]), "messages"),
        (body(n=0), "n"),
        (body(n=10**9), "n"),
        (body(n=True), "n"),
        (body(max_tokens=-1), "max_tokens"),
        (body(max_tokens=10**30), "max_tokens"),
        (body(max_tokens="5"), "max_tokens"),
        (body(max_tokens=5).replace(b"5}", b"NaN}"), None),
        (body(max_tokens=5).replace(b"5}", b"1e999}"), "max_tokens"),
        (body(stream="yes"), "stream"),
        (body(stream=True, stream_options=[]), "stream_options"),
        (body(user=5), "user"),
        (body(user="u" * 300), "user"),
        (body(metadata="x"), "metadata"),
        (body(metadata={"tags": 5}), "metadata.tags"),
        (body(tags=[str(i) for i in range(100)]), "tags"),
        (body(tools=[5]), "tools"),
    ],
)
def test_a_bad_body_names_the_field(stack: Stack, content: bytes, param: str | None) -> None:
    status, error = post(stack, content)
    assert (status, error["param"]) == (400, param)
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/realtime", "/v1/fine_tuning/jobs", "//v1/chat/completions",
        "/v1/chat/completions/", "/V1/chat/completions",
    ],
)  # fmt: skip
def test_there_is_no_way_round(stack: Stack, path: str) -> None:
    status, error = post(stack, body(), path)
    assert (status, error["code"]) == (404, "unknown_path")


@pytest.mark.parametrize(
    "path", ["/v1/..%2fchat/completions", "/v1/chat/completions/../../models", "/v1/./models"]
)
def test_a_path_with_two_meanings_is_refused(stack: Stack, path: str) -> None:
    status, error = post(stack, body(), path)
    assert (status, error["code"]) == (400, "malformed_http")


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", "key_missing"),
        ("   ", "key_missing"),
        ("bk-" + "a" * 43, "key_unknown"),
        ("bk- a b", "key_unknown"),
        ("sk-" + "x" * 60_000, "key_unknown"),
    ],
)
def test_a_bad_key_is_refused(stack: Stack, key: str, code: str) -> None:
    status, error = post(stack, body(), key=key)
    assert (status, error["code"]) == (401, code)


def test_the_admin_key_and_a_giant_key_open_nothing(stack: Stack) -> None:
    assert post(stack, body(), key=stack.ready["admin_key"])[1]["code"] == "key_unknown"
    assert post(stack, body(), key="bk-" + "a" * 1_000_000)[0] == 431


def test_a_compressed_body_that_cannot_be_read_is_refused(stack: Stack) -> None:
    for content, coding in (
        (body(), "gzip"),
        (gzip.compress(body())[:-1], "gzip"),
        (gzip.compress(body()), "br"),
    ):
        status, error = post(stack, content, content_encoding=coding)
        assert (status, error["code"]) == (415, "body_encoded")
    assert post(stack, body(), content_encoding="identity")[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: -1",
        b"content-length: 0x10",
        b"content-length: 99999999999999999999999",
        b"transfer-encoding : chunked",
        b"content-length: 5\nx: y",
        b"content-length: 5\r\n folded",
    ],
)
def test_no_request_is_smuggled(stack: Stack, head: bytes) -> None:
    assert raw(stack, head, b"12345") == 400


def test_a_coding_of_the_transfer_that_is_not_known_is_not_implemented(stack: Stack) -> None:
    assert raw(stack, b"transfer-encoding: gzip", b"12345") == 501


def test_a_giant_body_is_refused_before_it_came(stack: Stack) -> None:
    assert raw(stack, b"content-length: 60000000", b"x") == 413
    assert raw(stack, b"x-a: " + b"a" * 70_000 + b"\r\ncontent-length: 0") == 431


def test_nothing_of_it_is_reserved_and_the_next_call_is_served(stack: Stack) -> None:
    before = charge_number(stack)
    for content in (b"{", body(n=0), body(model="nope"), body(tags=5), gzip.compress(body())):
        assert post(stack, content)[0] in {400, 404}
    assert charge_number(stack) == before + 1


def budget(**fields: object) -> budgets_pb2.CreateBudgetRequest:
    """A sound budget, disabled, but for `fields`."""
    values = {
        "organization": ACME,
        "scope": ACME,
        "limit": money_pb2.Money(nanos=10**9),
        "window": budgets_pb2.Window(lifetime=budgets_pb2.Window.Lifetime()),
        "disabled": True,
        **fields,
    }
    return budgets_pb2.CreateBudgetRequest(budget=budgets_pb2.Budget(**values))  # type: ignore[arg-type]


def price(**fields: object) -> prices_pb2.SetPriceRequest:
    """A sound price but for `fields`."""
    rates = [
        prices_pb2.PriceComponent(meter=m, rate="1", per=1_000_000) for m in ("input", "output")
    ]
    values = {"provider": "openai", "model": "bad-input", "components": rates, **fields}
    return prices_pb2.SetPriceRequest(organization=ACME, price=prices_pb2.Price(**values))  # type: ignore[arg-type]


def rate(text: str, per: int = 1_000_000) -> list[prices_pb2.PriceComponent]:
    return [prices_pb2.PriceComponent(meter="input", rate=text, per=per)]


def calendar(unit: int, anchor: int = 0, zone: str = "") -> budgets_pb2.Window:
    kind = budgets_pb2.Window.Calendar(unit=unit, anchor=anchor)  # type: ignore[arg-type]
    return budgets_pb2.Window(calendar=kind, time_zone=zone)


def every(count: int, start_s: int = 0) -> budgets_pb2.Window:
    kind = budgets_pb2.Window.Every(
        count=count, unit=budgets_pb2.TIME_UNIT_DAY, start_time=Timestamp(seconds=start_s)
    )
    return budgets_pb2.Window(every=kind)


def key(**fields: object) -> identity_pb2.CreateKeyRequest:
    return identity_pb2.CreateKeyRequest(key=identity_pb2.Key(organization=ACME, **fields))  # type: ignore[arg-type]


RPCS: dict[Any, Callable[[grpc.Channel], Any]] = {
    budgets_pb2.CreateBudgetRequest: lambda c: BudgetServiceStub(c).CreateBudget,
    prices_pb2.SetPriceRequest: lambda c: PriceServiceStub(c).SetPrice,
    identity_pb2.CreateKeyRequest: lambda c: KeyServiceStub(c).CreateKey,
    identity_pb2.CreateTeamRequest: lambda c: TeamServiceStub(c).CreateTeam,
    identity_pb2.ListTeamsRequest: lambda c: TeamServiceStub(c).ListTeams,
    reports_pb2.QuerySpendRequest: lambda c: ReportServiceStub(c).QuerySpend,
    ledger_pb2.ListEntriesRequest: lambda c: LedgerServiceStub(c).ListEntries,
}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (budget(limit=money_pb2.Money(nanos=-1)), "budget.limit.nanos"),
        (budget(limit=money_pb2.Money(nanos=2**63 - 1)), "budget.limit.nanos"),
        (budget(limit=money_pb2.Money(nanos=1, currency="XXX")), "budget.limit.currency"),
        (budget(limit=money_pb2.Money(nanos=1, currency="EUR")), "budget.limit.currency"),
        (budget(scope="nobody"), "budget.scope"),
        (budget(enforcement=7), "budget.enforcement"),
        (budget(window=None), "budget.window"),
        (budget(window=calendar(99)), "budget.window.calendar.unit"),
        (budget(window=calendar(6, anchor=32)), "budget.window.calendar.anchor"),
        (budget(window=calendar(4, zone="../../etc/passwd")), "budget.window.time_zone"),
        (budget(window=every(0)), "budget.window.every.count"),
        (budget(window=every(1, -(10**14))), "budget.window.every.start_time"),
        (budget(display_name="a\x00"), "budget.display_name"),
        (price(components=rate("NaN")), "price.components[0].rate"),
        (price(components=rate("-1")), "price.components[0].rate"),
        (price(components=rate("9" * 5000)), "price.components[0].rate"),
        (price(components=rate("1", per=0)), "price.components[0].per"),
        (price(mode="nonsense"), "price.mode"),
        (price(currency="usd"), "price.currency"),
        (price(max_output_llm_tokens=-1), "price.max_output_llm_tokens"),
        (key(expire_time=Timestamp(seconds=10**15)), "key.expire_time"),
        (key(allowed_models=["*" * 50]), "key.allowed_models[0]"),
        (key(metadata={"k": LONG}), "key.metadata[k]"),
        (key(tags=["a,b"]), "key.tags[0]"),
        (identity_pb2.CreateTeamRequest(), "team.name"),
        (identity_pb2.ListTeamsRequest(organization=ACME, page_size=-1), "page_size"),
        (identity_pb2.ListTeamsRequest(organization=ACME, page_token="!"), "page_token"),
        (reports_pb2.QuerySpendRequest(organization=ACME, group_by=[99]), "group_by[0]"),  # type: ignore[list-item]
        (reports_pb2.QuerySpendRequest(organization=ACME, time_zone="Nope"), "time_zone"),
        (ledger_pb2.ListEntriesRequest(organization=ACME, charge_id="x"), "charge_id"),
    ],
)
def test_a_bad_request_names_the_field(stack: Stack, request_: object, field: str) -> None:
    metadata = (("authorization", f"Bearer {stack.ready['admin_key']}"),)
    with grpc.insecure_channel(stack.ready["grpc"]) as channel:
        call = RPCS[type(request_)](channel)
        with pytest.raises(grpc.RpcError) as caught:
            call(request_, metadata=metadata, timeout=20)
    said = caught.value.details() or ""
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said.startswith(f"{field}: ")
    assert len(said) < 400


def test_the_platform_has_no_sidecars(stack: Stack) -> None:
    sidecar = sidecars_pb2.Sidecar(organization=PLATFORM, name="sidecars/none")
    metadata = (("authorization", f"Bearer {stack.ready['admin_key']}"),)
    with (
        grpc.insecure_channel(stack.ready["grpc"]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        SidecarServiceStub(channel).CreateSidecar(
            sidecars_pb2.CreateSidecarRequest(sidecar=sidecar), metadata=metadata, timeout=20
        )
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("budget create --scope org/acme --limit=-5 --window daily", 2, "must not carry a sign"),
        ("budget create --scope org/acme --limit 1e5 --window daily", 2, "12.50EUR"),
        ("budget create --scope org/acme --limit 5EUR --window daily", 1, "currency USD"),
        ("budget create --scope org/acme --limit 1 --window 0d", 2, "1 to 10000"),
        ("budget create --scope team/none --limit 1 --window daily", 1, "no team 'teams/none'"),
        ("key create --expires 2020-01-01", 2, "not in the future"),
        ("spend show --by nope", 2, "not one of"),
        ("team list --org nope", 1, "no organization"),
        ("team list --address unix:/nowhere/bursar.sock", 3, "cannot be reached"),
    ],
)
def test_a_bad_command_says_what_is_wrong(
    stack: Stack, arguments: str, code: int, said: str
) -> None:
    done = stack.cli(*arguments.split())
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in " ".join(done.stderr.split())


def test_a_file_without_a_certificate_is_named(stack: Stack, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    done = stack.cli("team", "list", "--tls-ca", str(wrong))
    assert (done.returncode, "expected a PEM file" in done.stderr) == (2, True)
