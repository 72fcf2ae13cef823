"""One file over http, from a server that may be anything."""

from collections.abc import Iterator

import pytest

from bursar.download import DownloadError, check_url, download, shown_url
from tests.fakes.list_publisher import ListPublisher

MOST = 100_000


@pytest.fixture
def publisher() -> Iterator[ListPublisher]:
    with ListPublisher(b'{"a": 1}') as running:
        yield running


def refusal(url: str, **more: float) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        download(url, most_bytes=MOST, **more)  # type: ignore[arg-type]  # timeout_s alone
    return caught.value


def test_a_file_is_fetched_and_what_has_not_changed_is_not(publisher: ListPublisher) -> None:
    first = download(publisher.url, most_bytes=MOST)
    assert (first.data, first.etag) == (b'{"a": 1}', '"1"')
    again = download(publisher.url, most_bytes=MOST, etag=first.etag)
    assert (again.data, again.etag) == (None, '"1"')
    publisher.content, publisher.etag = b"{}", '"2"'
    assert download(publisher.url, most_bytes=MOST, etag=first.etag).data == b"{}"
    assert publisher.requests[0]["Accept-Encoding"] == "identity"


def test_a_body_without_end_is_left(publisher: ListPublisher) -> None:
    publisher.endless = True
    fault = refusal(publisher.url)
    assert "has more than 100000 bytes" in str(fault)
    assert not fault.retriable


def test_a_body_that_takes_too_long_is_left(publisher: ListPublisher) -> None:
    publisher.endless = True
    times = iter(range(0, 1_000, 30))
    with pytest.raises(DownloadError, match="takes too long"):
        download(publisher.url, most_bytes=10**9, monotonic=lambda: next(times))


def test_a_body_that_ends_early_is_no_file(publisher: ListPublisher) -> None:
    publisher.cut = 3
    fault = refusal(publisher.url)
    assert "127.0.0.1" in str(fault)
    assert fault.retriable


def test_a_server_that_says_nothing_is_left(publisher: ListPublisher) -> None:
    publisher.silent = True
    assert "timed out" in str(refusal(publisher.url, timeout_s=0.05))


@pytest.mark.parametrize(
    ("status", "retriable"), [(404, False), (403, False), (429, True), (503, True)]
)
def test_a_status_says_whether_to_ask_again(
    publisher: ListPublisher, status: int, *, retriable: bool
) -> None:
    publisher.status = status
    fault = refusal(publisher.url)
    assert f"answered {status}" in str(fault)
    assert fault.retriable is retriable


def test_a_compressed_body_was_not_asked_for(publisher: ListPublisher) -> None:
    publisher.headers = {"Content-Encoding": "gzip"}
    assert "compressed" in str(refusal(publisher.url))


def test_a_redirect_is_followed(publisher: ListPublisher) -> None:
    with ListPublisher(b"moved") as target:
        publisher.status, publisher.headers = 302, {"Location": target.url}
        assert download(publisher.url, most_bytes=MOST).data == b"moved"


def test_what_comes_with_a_redirect_is_not_read(publisher: ListPublisher) -> None:
    publisher.endless = True
    with ListPublisher(b"moved") as target:
        publisher.status, publisher.headers = 302, {"Location": target.url}
        assert download(publisher.url, most_bytes=MOST).data == b"moved"


def test_user_and_password_go_to_the_address_they_are_for(publisher: ListPublisher) -> None:
    with ListPublisher(b"moved") as target:
        publisher.status, publisher.headers = 302, {"Location": target.url}
        download(publisher.url.replace("//", "//me:a%40b@"), most_bytes=MOST)
    assert publisher.requests[0]["Authorization"] == "Basic bWU6YUBi"
    assert "Authorization" not in target.requests[0]


def test_redirects_in_a_circle_end(publisher: ListPublisher) -> None:
    publisher.status, publisher.headers = 302, {"Location": publisher.url}
    assert "302" in str(refusal(publisher.url))
    assert len(publisher.requests) <= 3


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_a_redirect_leads_nowhere_but_to_the_web(publisher: ListPublisher, target: str) -> None:
    publisher.status, publisher.headers = 302, {"Location": target}
    assert "not accepted" in str(refusal(publisher.url)) or "302" in str(refusal(publisher.url))


def test_nobody_there_is_told() -> None:
    with ListPublisher() as gone:
        url = gone.url
    assert "can't be read" in str(refusal(url))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://x/y",
        "//x/y",
        "x",
        "",
        "http://",
        "http://x:port/",
        "http://x/ y",
    ],
)
def test_only_addresses_of_the_web_are_asked(url: str) -> None:
    with pytest.raises(DownloadError):
        check_url(url)


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown_url("https://me:secret@host.test:8443/a/b?key=secret#x") == (
        "https://host.test:8443/a/b"
    )
    assert "secret" not in shown_url("http://me:secret@[bad/")
