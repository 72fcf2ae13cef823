"""The control plane's settings: where they come from, and what is refused before it starts."""

from pathlib import Path
from typing import Any

import pytest

from bursar_server.allowances.settings import LendingSettings
from bursar_server.app import lending_settings
from bursar_server.settings import (
    Settings,
    SettingsError,
    descriptions,
    is_local,
    load_settings,
    mask_url,
)

URL = "postgresql://bursar@db/bursar"
KEY = "ba-" + "x" * 43


def load(environment: dict[str, str] | None = None, **options: Any) -> Settings:
    return load_settings({"BURSAR_DATABASE_URL": URL, **(environment or {})}, options)


def refusal(environment: dict[str, str] | None = None, **options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environment, **options)
    return str(caught.value)


def test_the_defaults_are_those_that_are_documented() -> None:
    settings = load()
    assert (settings.grpc_address, settings.http_address) == ("127.0.0.1:7443", "127.0.0.1:7080")
    assert lending_settings(settings) == LendingSettings()


def test_an_option_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bursar.toml"
    file.write_text(
        'pool_size = 5\ndrain_ms = 6\nlog_level = "debug"\n[lending]\nvalid_for_ms = 7000\n'
    )
    environment = {"BURSAR_CONFIG": str(file), "BURSAR_POOL_SIZE": "8", "BURSAR_DRAIN_MS": "9"}
    settings = load(environment, pool_size="10", log_level=None)
    assert (settings.pool_size, settings.drain_ms, settings.log_level) == (10, 9, "debug")
    assert lending_settings(settings).valid_for_ms == 7000
    assert load(environment, config=str(file)).pool_size == 8


def test_there_is_no_default_database() -> None:
    with pytest.raises(SettingsError, match="BURSAR_DATABASE_URL"):
        load_settings({}, {})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BURSAR_POOL_SIZE": "many"}, "BURSAR_POOL_SIZE: 'many' is not accepted"),
        ({"BURSAR_POOL_SIZE": "3"}, "BURSAR_POOL_SIZE: '3' is not accepted: Expected `int` >= 4"),
        ({"BURSAR_POOL_SIZE": "1e9"}, "BURSAR_POOL_SIZE"),
        ({"BURSAR_DRAIN_MS": "-1"}, "BURSAR_DRAIN_MS"),
        ({"BURSAR_INSECURE": "perhaps"}, "BURSAR_INSECURE"),
        ({"BURSAR_LOG_LEVEL": "loud"}, "BURSAR_LOG_LEVEL"),
        ({"BURSAR_DATABASE_URL": "mysql://u:hidden@h/d"}, "database_url"),
        ({"BURSAR_DATABASE_URL": ""}, "database_url"),
        ({"BURSAR_DATABASE_URL": "u:hidden@h/d"}, "database_url"),
        ({"BURSAR_DATABASE_URL": "postgresql://u:hidden@[h/d"}, "database_url"),
        ({"BURSAR_ADMIN_KEY": "hidden"}, "admin_key"),
        ({"BURSAR_ADMIN_KEY": "ba-hidden"}, "admin_key"),
        ({"BURSAR_ADMIN_KEY": f"{KEY} hidden"}, "admin_key"),
        ({"BURSAR_GRPC_ADDRESS": "7443"}, "grpc_address: '7443' is not accepted"),
        ({"BURSAR_GRPC_ADDRESS": "::1:7443"}, "grpc_address"),
        ({"BURSAR_GRPC_ADDRESS": "127.0.0.1:70000"}, "grpc_address"),
        ({"BURSAR_GRPC_ADDRESS": "127.0.0.1:x"}, "grpc_address"),
        ({"BURSAR_GRPC_ADDRESS": "unix:relative"}, "grpc_address"),
        ({"BURSAR_HTTP_ADDRESS": "unix:/run/x"}, "http_address"),
        ({"BURSAR_TLS_CERT": "a.pem"}, "tls_key: a certificate and its private key go together"),
        ({"BURSAR_TLS_KEY": "a.pem"}, "tls_cert"),
        ({"BURSAR_TLS_CLIENT_CA": "a.pem"}, "tls_client_ca"),
        ({"BURSAR_CONFIG": "/nowhere/bursar.toml"}, "can't read /nowhere/bursar.toml: No such"),
    ],
)
def test_a_bad_setting_is_named(environment: dict[str, str], said: str) -> None:
    message = refusal(environment)
    assert said in message
    assert "hidden" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool_sise = 5", "pool_sise is not a setting; there are admin_key"),
        ('pool_size = "5"', "pool_size: '5' is not accepted: Expected `int`, got `str`"),
        ("pool_size = ", "is no TOML"),
        ("pool_size = 5\npool_size = 6", "is no TOML"),
        ("lending = 5", "lending: 5 is not accepted"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bursar.toml"
    file.write_text(text)
    message = refusal(config=str(file))
    assert said in message
    assert str(file) in message


def test_a_bad_way_of_lending_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bursar.toml"
    for line, said in (
        ("valid_for = 1", "valid_for"),
        ('valid_for_ms = "1"', "valid_for_ms"),
        ("valid_for_ms = 2999", "valid_for_ms"),
    ):
        file.write_text(f"[lending]\n{line}\n")
        with pytest.raises(SettingsError, match=rf"lending: .*{said}`"):
            lending_settings(load(config=str(file)))


def test_no_money_is_in_doubt_while_its_sidecar_may_still_spend_it(tmp_path: Path) -> None:
    file = tmp_path / "bursar.toml"
    for line, value, valid_for in (
        ("valid_for_ms = 1_830_000", 1_830_000, 1_830_000),
        ("resolve_after_ms = 20_000", 20_000, 30_000),
    ):
        file.write_text(f"[lending]\n{line}\n")
        with pytest.raises(SettingsError) as caught:
            lending_settings(load(config=str(file)))
        assert str(caught.value) == (
            f"lending: resolve_after_ms: {value} is not accepted: expected more than valid_for_ms, "
            f"which is {valid_for}"
        )
    file.write_text("[lending]\nvalid_for_ms = 1_830_000\nresolve_after_ms = 1_830_001\n")
    assert lending_settings(load(config=str(file))).resolve_after_ms == 1_830_001


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.8.9.10:1", "[::1]:7443", "localhost:7443", "unix:/run/bursar"]
)
def test_plaintext_is_served_on_this_machine(address: str) -> None:
    assert is_local(address)
    assert load(grpc_address=address).grpc_address == address


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7443", "[::]:7443", "10.0.0.1:7443", "bursar.example.com:7443"]
)
def test_plaintext_beyond_it_must_be_asked_for(address: str) -> None:
    assert not is_local(address)
    message = refusal(grpc_address=address)
    assert message.startswith(f"grpc_address: {address} can be reached from other machines")
    assert load({"BURSAR_INSECURE": "true"}, grpc_address=address).insecure
    assert load(grpc_address=address, tls_cert="a", tls_key="b").tls_cert == "a"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (URL, URL),
        ("postgresql://a:hidden@db:5432/x", "postgresql://a:***@db:5432/x"),
        ("postgresql://a:hid%40den@db/x", "postgresql://a:***@db/x"),
        ("postgresql://db/x?password=hidden", "postgresql://db/x?password=***"),
        ("postgresql:///x?host=/run/pg&user=a", "postgresql:///x?host=/run/pg&user=a"),
    ],
)
def test_a_password_is_never_shown(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    settings = load({"BURSAR_DATABASE_URL": url, "BURSAR_ADMIN_KEY": KEY})
    shown = settings.masked()
    assert (shown["database_url"], shown["admin_key"]) == (masked, "***")
    assert settings.admin_key == KEY


def test_every_setting_says_what_it_is_for() -> None:
    assert [one.name for one in descriptions()] == list(Settings.__struct_fields__)
    assert all(one.text.endswith(".") for one in descriptions())


def test_nothing_is_fetched_unless_an_address_is_set_and_its_secrets_are_not_shown() -> None:
    assert load().price_sync_url == ""
    url = "https://me:hidden@host.test/list.json?key=hidden"
    settings = load({"BURSAR_PRICE_SYNC_URL": url})
    assert settings.price_sync_url == url
    assert settings.masked()["price_sync_url"] == "https://host.test/list.json"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRICE_SYNC_URL", "file:///hidden"),
        ("PRICE_SYNC_URL", "host.test:hidden"),
        ("PRICE_SYNC_INTERVAL_S", "59"),
        ("PRICE_SYNC_MAX_CHANGE", "0"),
    ],
)
def test_a_sync_that_cannot_be_is_refused_at_the_start(name: str, value: str) -> None:
    assert name in refusal({f"BURSAR_{name}": value}).upper()
