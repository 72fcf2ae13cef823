"""Settings of sockets, listeners and what is from files."""

from pathlib import Path

import pytest

from bursar_sidecar.listener_settings import Listener
from bursar_sidecar.settings import SettingsError, effective, load_settings


def loaded(tmp_path: Path, toml: str, **environ: str) -> list[str]:
    """The faults of a file; none where it is good."""
    path = tmp_path / "c.toml"
    path.write_text(toml)
    try:
        load_settings(environ, path)
    except SettingsError as error:
        return error.faults
    return []


def test_listeners_have_an_address_and_an_identity(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("bk-reports\n")
    path = tmp_path / "c.toml"
    path.write_text(
        f'''
[[listeners]]
address = "unix:/run/reports.sock"
api_key_file = "{tmp_path}/key"
app = "reports"
own_keys = "forbid"
socket_mode = "0660"

[[listeners]]
address = "127.0.0.1:7080"
api_key_env = "THE_KEY"
'''
    )
    settings = load_settings({"THE_KEY": "bk-search"}, path)
    assert settings.listeners == (
        Listener(
            "unix:/run/reports.sock",
            api_key="bk-reports",
            api_key_file=f"{tmp_path}/key",
            app="reports",
            own_keys="forbid",
            socket_mode="0660",
        ),
        Listener("127.0.0.1:7080", api_key="bk-search"),
    )
    shown = str(effective(settings))
    assert "bk-reports" not in shown
    assert "bk-search" not in shown


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("listeners = 3", "listeners: expected tables"),
        ("[[listeners]]", "listeners[0].address is missing"),
        ('[[listeners]]\naddress = "unix:relative"', "listeners[0].address is 'unix:relative'"),
        (f'[[listeners]]\naddress = "unix:/{"x" * 108}"', "at most 100 bytes"),
        ('[[listeners]]\naddress = "h:1"\ncolor = 1', "listeners[0].color: unknown setting"),
        ('[[listeners]]\naddress = "h:1"\nown_keys = "maybe"', "expected allow or forbid"),
        ('[[listeners]]\naddress = "h:1"\nown_keys = "forbid"', "it needs a key of its own"),
        ('[[listeners]]\naddress = "h:1"\napp = "\\u00fc"', "at most 128 ASCII characters"),
        ('[[listeners]]\naddress = "h:1"\nsocket_mode = 432', "permissions in octal digits"),
        ('[[listeners]]\naddress = "h:1"\napi_key_env = "ADMIN"', "none of Bursar's"),
        (
            'http_address = "unix:/a"\n[[listeners]]\naddress = "unix:/a"',
            "listeners[0].address is 'unix:/a'; expected another than http_address",
        ),
        ('http_address = "h:1"\nadmin_address = "h:1"', "admin_address is 'h:1'"),
        ('socket_mode = "0999"', "socket_mode is '0999'"),
        ("workers = 0", "workers is 0"),
        ("workers = 65", "workers is 65; expected a whole number, 1 to 64"),
        ('log_level = "loud"', "debug or info or warning or error"),
        ('debug_page = "maybe"', "loopback or anyone or off"),
        ("credential_check_s = 0", "credential_check_s is 0"),
        ('sidecar_key_file = "/no/file"', "sidecar_key_file is '/no/file'"),
    ],
)
def test_faults_are_named(tmp_path: Path, toml: str, named: str) -> None:
    assert named in "\n".join(loaded(tmp_path, toml, ADMIN="ba-secret"))
    assert "ba-secret" not in "\n".join(loaded(tmp_path, toml, ADMIN="ba-secret"))


def test_two_listeners_on_any_free_port_do_not_collide(tmp_path: Path) -> None:
    toml = 'http_address = "127.0.0.1:0"\n[[listeners]]\naddress = "127.0.0.1:0"'
    assert loaded(tmp_path, toml) == []


def test_the_sidecars_own_key_may_stand_in_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("bs-1\n")
    settings = load_settings({"BURSAR_SIDECAR_KEY_FILE": str(key)})
    assert settings.sidecar_key == "bs-1"
    assert "bs-1" not in str(effective(settings))
    key.write_text("bk-of-another-kind")
    (fault,) = loaded(tmp_path, "", BURSAR_SIDECAR_KEY_FILE=str(key))
    assert fault.startswith("sidecar_key_file is")
    assert "bk-of-another-kind" not in fault
    (fault,) = loaded(tmp_path, "", BURSAR_SIDECAR_KEY_FILE=str(key), BURSAR_SIDECAR_KEY="bs-2")
    assert "not both" in fault


@pytest.mark.parametrize("content", ["", "  \n", "sk-\x00", "x" * 20_000])
def test_a_file_without_a_credential_is_a_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    toml = f'[providers.a]\nbase_url = "http://h/v1"\napi_key_file = "{tmp_path}/key"'
    (fault,) = loaded(tmp_path, toml)
    assert fault.startswith("providers.a.api_key_file is")
    assert "sk-" not in fault
