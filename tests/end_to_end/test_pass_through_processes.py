"""Through a real sidecar, over real sockets, with and without TLS: byte by byte what a direct call
is, and the ledger has every call once."""

import gzip
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from tests.fakes.desk import KEY
from tests.fakes.programs import Program, module
from tests.fakes.raw_wire import AUTHORITY, Recorded, without, without_comment
from tests.fakes.recorded_shapes import ANSWER, SHAPES, asked, plain, request
from tests.fakes.socket_ends import SocketProvider, ask, for_peers
from tests.fakes.stack import Stack, running

TLS = Path(__file__).parent.parent / "data" / "tls"
OF_REQUESTS = (b"connection:", b"accept-encoding:")
OF_ANSWERS = (b"connection:", b"keep-alive:")
OURS = (*OF_ANSWERS, b"x-bursar-", b"x-litellm-response-")


class Line:
    """A sidecar before providers of the test's own, one of them over TLS."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "server.pem", TLS / "server.key.pem")
        self.stack = stack
        self.provider = SocketProvider()
        self.secure = SocketProvider(context)
        self.key: str = stack.ready["demo_key"]
        settings = directory / "sidecar.toml"
        settings.write_text(self._settings())
        enrolled = stack.cli("sidecar", "create", "raw", "-o", "json")
        self.sidecar = Program(
            "raw-sidecar",
            directory,
            module("bursar_sidecar"),
            {
                "BURSAR_ADDRESS": stack.ready["grpc"],
                "BURSAR_SIDECAR_KEY": json.loads(enrolled.stdout)["key"],
                "BURSAR_SIDECAR_HTTP_ADDRESS": "127.0.0.1:0",
                "BURSAR_SIDECAR_ADMIN_ADDRESS": "127.0.0.1:0",
                "BURSAR_SIDECAR_GRPC_ADDRESS": "127.0.0.1:0",
                "BURSAR_DATA_DIR": str(directory / "journal"),
                "BURSAR_CONFIG": str(settings),
                "SAME_KEY": self.key,
            },
        )

    def _settings(self) -> str:
        common = 'kind = "openai"\napi_key_env = "SAME_KEY"\n'
        secure = f'base_url = "https://localhost:{self.secure.port}/v1"\n'
        return (
            f'[providers.openai]\nbase_url = "http://{self.provider.authority}/v1"\n{common}'
            f'[providers.secure]\n{secure}ca_file = "{TLS / "authority.pem"}"\n{common}'
            f"[providers.untrusted]\n{secure}{common}"
        )

    @property
    def address(self) -> str:
        """Where apps call."""
        return str(self.sidecar.said["http"]).removeprefix("http://")

    def recorded(self, shape: str) -> Recorded:
        """A shape with this provider's name and this app's key."""
        names = {
            AUTHORITY.encode(): self.provider.authority.encode(),
            KEY.encode(): self.key.encode(),
        }
        return for_peers(SHAPES[shape], names)

    def request(self, body: bytes, *headers: bytes) -> bytes:
        """A request with this app's key."""
        return request(body, *headers).replace(KEY.encode(), self.key.encode())


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    directory = tmp_path_factory.mktemp("raw")
    with running(directory) as stack:
        line = Line(stack, directory)
        with line.provider, line.secure:
            line.sidecar.start()
            yield line
            assert line.sidecar.stop() == 0, line.sidecar.log()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exchange_is_the_same_through_real_processes(line: Line, shape: str) -> None:
    recorded = line.recorded(shape)
    line.provider.answer = recorded.answer
    line.provider.requests.clear()
    direct = ask(line.provider.authority, recorded.request)
    proxied = ask(line.address, recorded.request)
    sent_direct, sent_proxied = line.provider.requests
    assert without(sent_proxied, OF_REQUESTS) == without(sent_direct, OF_REQUESTS)
    assert without_comment(without(proxied, OURS)) == without(direct, OF_ANSWERS)


def test_a_provider_over_tls_is_called_and_its_connection_used_again(line: Line) -> None:
    line.secure.answer = plain(ANSWER)
    line.secure.requests.clear()
    line.secure.connections = 0
    body = asked().replace(b'"gpt-4o-mini"', b'"secure/gpt-4o-mini"')
    for _ in range(3):
        answer = ask(line.address, (line.request(body),))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(ANSWER)
    assert len(line.secure.requests) == 3
    assert line.secure.connections == 1
    assert f"\r\nHost: localhost:{line.secure.port}\r\n".encode() in line.secure.requests[0]


def test_a_provider_whose_certificate_is_not_trusted_is_not_called(line: Line) -> None:
    line.secure.requests.clear()
    body = asked().replace(b'"gpt-4o-mini"', b'"untrusted/gpt-4o-mini"')
    answer = ask(line.address, (line.request(body),))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"provider_unreachable" in answer
    assert not line.secure.requests


def test_the_official_sdk_reads_a_compressed_answer(line: Line) -> None:
    packed = gzip.compress(ANSWER)
    line.provider.answer = plain(packed, b"Content-Encoding: gzip")
    client = openai.OpenAI(api_key=line.key, base_url=f"http://{line.address}/v1", max_retries=0)
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], max_tokens=9
    )
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["x-bursar-cost"] == "0.0000135"
    assert answer.parse().choices[0].message.content == "gr\u00fc\u00df /"


def test_a_client_that_is_strict_about_http_reads_every_shape(line: Line) -> None:
    with httpx.Client(base_url=f"http://{line.address}") as client:
        for shape in SHAPES.values():
            line.provider.answer = shape.answer
            with client.stream(
                "POST",
                "/v1/chat/completions",
                content=asked(stream=b"event-stream" in shape.answer[0]),
                headers={"authorization": f"Bearer {line.key}"},
            ) as answer:
                b"".join(answer.iter_raw())
            status = b"".join(shape.answer).rpartition(b"HTTP/1.1 ")[2][:3]
            assert answer.status_code == int(status)
