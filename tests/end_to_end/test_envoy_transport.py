"""Between Envoy and the sidecar: TCP as it ships, and TLS with a certificate of Envoy's own,
without which nobody is heard.
"""

from pathlib import Path

import openai
import pytest

from tests.fakes.envoy import OURS, Config, clusters_of
from tests.fakes.envoy_site import EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import compare

TLS = Path(__file__).parents[1] / "data" / "tls"
ANY_PORT = "127.0.0.1:0"


def over_tls(config: Config, *, with_certificate: bool) -> None:
    """Envoy's side of it, for every cluster that leads to the sidecar."""
    context: Config = {"validation_context": {"trusted_ca": {"filename": f"{TLS}/authority.pem"}}}
    if with_certificate:
        own = {
            "certificate_chain": {"filename": f"{TLS}/client.pem"},
            "private_key": {"filename": f"{TLS}/client.key.pem"},
        }
        context["tls_certificates"] = [own]
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    settings = {"@type": kind, "sni": "localhost", "common_tls_context": context}
    for cluster in clusters_of(config):
        if cluster["name"].startswith(OURS):
            cluster["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": settings,
            }


SECURED = {
    "BURSAR_SIDECAR_ENVOY_TLS_CERT": f"{TLS}/server.pem",
    "BURSAR_SIDECAR_ENVOY_TLS_KEY": f"{TLS}/server.key.pem",
    "BURSAR_SIDECAR_ENVOY_TLS_CLIENT_CA": f"{TLS}/authority.pem",
}


def both_kinds_are_served(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.openai(secret)
    plain, streamed = Marked(), Marked(output_llm_tokens=50)
    ask(app, plain).parse()
    list(ask(app, streamed, stream=True).parse())
    for call in (plain, streamed):
        site.entry(name, call)
    assert compare(site.served(plain, streamed), site.entries(name)) == {"exact": 2}


def test_over_tcp_as_it_ships(tmp_path: Path) -> None:
    with envoy_site(tmp_path, address=ANY_PORT) as site:
        both_kinds_are_served(site)


def test_over_tls_an_envoy_is_heard_that_has_a_certificate(tmp_path: Path) -> None:
    def secured(config: Config) -> None:
        over_tls(config, with_certificate=True)

    with envoy_site(tmp_path, "strict", secured, address=ANY_PORT, **SECURED) as site:
        both_kinds_are_served(site)


def test_over_tls_nobody_is_heard_without_one(tmp_path: Path) -> None:
    def unknown(config: Config) -> None:
        over_tls(config, with_certificate=False)

    with envoy_site(tmp_path, "strict", unknown, address=ANY_PORT, **SECURED) as site:
        _name, secret = site.key()
        with pytest.raises(openai.InternalServerError) as closed:
            ask(site.openai(secret), Marked())
        assert closed.value.status_code == 503
        assert not site.site.served()
