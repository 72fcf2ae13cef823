"""The sidecar's settings: where they come from, and how faults are told."""

from pathlib import Path

import pytest

from bursar_sidecar.settings import SettingsError, effective, load_settings

TOML = """
http_address = "127.0.0.1:0"
default_max_output = 100

[providers.openai]
base_url = "https://api.example.org/v1/"
api_key_env = "THE_KEY"
models = ["gpt-*"]
headers = { OpenAI-Organization = "org-1" }

[providers.local]
base_url = "http://127.0.0.1:9000/v1"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sidecar.toml"
    path.write_text(TOML)
    return path


def faults_of(environ: dict[str, str], config: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, config)
    return caught.value.faults


def test_defaults_need_nothing() -> None:
    settings = load_settings({})
    assert settings.http_address == "127.0.0.1:7070"
    assert settings.admin_address == "127.0.0.1:7072"
    assert (settings.exhausted_status, settings.default_max_output) == (402, 4096)
    assert (settings.reserve_wait_ms, settings.max_waiters) == (2000, 1000)
    assert settings.when_short == "assemble"
    assert settings.longest_call_s == 1800


def test_environment_wins_over_the_file(config: Path) -> None:
    environ = {"BURSAR_CONFIG": str(config), "THE_KEY": "sk-1", "BURSAR_DEFAULT_MAX_OUTPUT": "7"}
    settings = load_settings(environ)
    assert settings.http_address == "127.0.0.1:0"
    assert settings.default_max_output == 7
    openai, local = settings.providers
    assert (openai.name, openai.kind, openai.api_key) == ("openai", "openai", "sk-1")
    assert openai.base_url == "https://api.example.org/v1"
    assert openai.models == ("gpt-*",)
    assert openai.headers == (("openai-organization", "org-1"),)
    assert local.api_key == ""


def test_variables_of_other_parts_are_left_alone() -> None:
    load_settings({"BURSAR_DATABASE_URL": "postgres://x", "BURSAR_ADMIN_KEY": "ba-1"})


def test_a_credential_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    path = tmp_path / "c.toml"
    path.write_text(
        f'[providers.a]\nbase_url = "http://h/v1"\napi_key_file = "{tmp_path / "key"}"\n'
    )
    assert load_settings({}, path).providers[0].api_key == "sk-2"


def test_a_header_that_frames_a_request_cannot_be_set(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[providers.a]\nbase_url = "http://h/v1"\nheaders = { Transfer-Encoding = "chunked" }\n'
    )
    (fault,) = faults_of({}, path)
    assert "headers other than Transfer-Encoding" in fault


def test_effective_settings_show_no_secret(config: Path) -> None:
    settings = load_settings({"THE_KEY": "sk-secret", "BURSAR_SIDECAR_KEY": "bs-secret"}, config)
    shown = str(effective(settings))
    assert "secret" not in shown
    assert "org-1" not in shown
    assert "'api_key': '***'" in shown
    assert "'sidecar_key': '***'" in shown
    assert "https://api.example.org/v1" in shown


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BURSAR_SIDECAR_HTTP_ADDRESS", "7070", "host:port"),
        ("BURSAR_SIDECAR_HTTP_ADDRESS", "host:99999", "host:port"),
        ("BURSAR_SIDECAR_HTTP_ADDRESS", "host:-1", "host:port"),
        ("BURSAR_ADDRESS", "nowhere", "host:port"),
        ("BURSAR_SIDECAR_KEY", "bk-wrong-kind", "bs-"),
        ("BURSAR_DEFAULT_MAX_OUTPUT", "many", "a whole number"),
        ("BURSAR_DEFAULT_MAX_OUTPUT", "0", "a whole number"),
        ("BURSAR_DEFAULT_MAX_OUTPUT", "1e9", "a whole number"),
        ("BURSAR_EXHAUSTED_STATUS", "500", "402 or 429"),
        ("BURSAR_RESERVE_WAIT_MS", "-1", "a whole number"),
        ("BURSAR_INSECURE", "maybe", "true or false"),
        ("BURSAR_MAX_REQUEST_BYTES", "12", "a whole number"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    variable: str, value: str, expected: str
) -> None:
    (fault,) = faults_of({variable: value})
    setting = variable.removeprefix("BURSAR_").replace("SIDECAR_HTTP", "HTTP").lower()
    assert fault.startswith(setting)
    assert expected in fault
    assert (value in fault) == (variable != "BURSAR_SIDECAR_KEY")


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("nonsense = 1", "nonsense: unknown setting"),
        ("default_max_output = 1.5", "default_max_output is 1.5"),
        ("default_max_output = true", "default_max_output is True"),
        ("exhausted_status = true", "exhausted_status is True"),
        ('when_short = "cut"', "when_short is 'cut'; expected assemble or clamp or wait or refuse"),
        ("when_short = 1", "when_short is 1"),
        ("progressive = 1", "progressive: expected tables"),
        ('[[progressive]]\nproviders = ["a"]', "progressive[1]: Object missing required field"),
        ("http_address = 7070", "http_address is 7070"),
        ("providers = 3", "providers: expected tables"),
        ("[providers.a]", "providers.a.base_url is missing"),
        ('[providers."A b"]\nbase_url = "http://h"', "providers.A b: expected a name"),
        ('[providers.a]\nbase_url = "ftp://h"', "providers.a.base_url is 'ftp://h'"),
        ('[providers.a]\nbase_url = "http://u:p@h/v1"', "providers.a.base_url"),
        ('[providers.a]\nbase_url = "http://h:99999/v1"', "providers.a.base_url"),
        ('[providers.a]\nbase_url = "http://h"\nkind = "soap"', "providers.a.kind is 'soap'"),
        ('[providers.a]\nbase_url = "http://h"\nmodels = "x"', "providers.a.models is 'x'"),
        ('[providers.a]\nbase_url = "http://h"\napi_key = "sk"', "api_key: unknown setting"),
        ('[providers.a]\nbase_url = "http://h"\napi_key_env = "UNSET"', "api_key_env is 'UNSET'"),
        ('[providers.a]\nbase_url = "http://h"\napi_key_file = "/no/file"', "api_key_file is"),
        (
            '[providers.a]\nbase_url = "http://h"\napi_key_file = "f"\napi_key_env = "E"',
            "not both",
        ),
        ("not toml", "is not valid TOML"),
    ],
)
def test_faults_of_the_file_are_named(tmp_path: Path, toml: str, named: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(toml)
    assert named in "\n".join(faults_of({}, path))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('a = 1\nb = 2\n[providers.x]\nkind = "soap"\n')
    assert len(faults_of({"BURSAR_INSECURE": "perhaps"}, path)) == 5


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (fault,) = faults_of({}, tmp_path / "none.toml")
    assert "none.toml" in fault


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:7071", "unix:/run/spend.sock"])
def test_local_grpc_is_plain_on_this_machine(address: str) -> None:
    assert load_settings({"BURSAR_SIDECAR_GRPC_ADDRESS": address}).grpc_address == address


def test_local_grpc_off_loopback_wants_a_certificate_or_to_be_told() -> None:
    address = {"BURSAR_SIDECAR_GRPC_ADDRESS": "0.0.0.0:7071"}
    with pytest.raises(SettingsError, match="not on loopback"):
        load_settings(address)
    assert load_settings({**address, "BURSAR_GRPC_INSECURE": "true"}).grpc_insecure
    pair = {"BURSAR_GRPC_TLS_CERT": "c.pem", "BURSAR_GRPC_TLS_KEY": "k.pem"}
    assert load_settings({**address, **pair}).grpc_tls_cert == "c.pem"
    with pytest.raises(SettingsError, match="both or none"):
        load_settings({"BURSAR_GRPC_TLS_CERT": "c.pem"})


def test_beyond_loopback_an_envoy_shows_a_certificate() -> None:
    """What it says of a call is believed."""
    address = {"BURSAR_ENVOY_ADDRESS": "0.0.0.0:7073"}
    pair = {"BURSAR_ENVOY_TLS_CERT": "c.pem", "BURSAR_ENVOY_TLS_KEY": "k.pem"}
    authority = {"BURSAR_ENVOY_TLS_CLIENT_CA": "ca.pem"}
    for lacking in (address, {**address, **pair}):
        with pytest.raises(SettingsError, match="envoy_tls_client_ca with it, or envoy_insecure"):
            load_settings(lacking)
    assert load_settings({**address, **pair, **authority}).envoy_tls_client_ca == "ca.pem"
    assert load_settings({**address, "BURSAR_ENVOY_INSECURE": "true"}).envoy_insecure
    assert load_settings({"BURSAR_ENVOY_ADDRESS": "unix:/run/envoy.sock"}).envoy_address
    with pytest.raises(SettingsError, match="both or none"):
        load_settings({"BURSAR_ENVOY_TLS_CERT": "c.pem"})
    with pytest.raises(SettingsError, match="expected envoy_tls_cert and envoy_tls_key with it"):
        load_settings(authority)


def test_an_envoy_has_an_address_of_its_own() -> None:
    both = {"BURSAR_ENVOY_ADDRESS": "127.0.0.1:7071"}
    with pytest.raises(SettingsError, match="expected another than grpc_address"):
        load_settings(both)
    assert load_settings({"BURSAR_ENVOY_ADDRESS": "none"}).envoy_address == ""


def test_the_control_planes_grpc_address_is_not_ours() -> None:
    assert load_settings({"BURSAR_GRPC_ADDRESS": "0.0.0.0:7443"}).grpc_address == "127.0.0.1:7071"
    assert load_settings({"BURSAR_SIDECAR_GRPC_ADDRESS": "none"}).grpc_address == ""
