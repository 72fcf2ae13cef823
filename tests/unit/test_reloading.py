"""New settings while the sidecar runs."""

from collections.abc import Callable

import msgspec
import pytest
from structlog.testing import capture_logs

from bursar_sidecar.credential_files import CredentialFiles
from bursar_sidecar.listener_settings import Listener
from bursar_sidecar.operations_metrics import OperationsMetrics
from bursar_sidecar.reloading import LIVE, Reloading, merged
from bursar_sidecar.settings import Provider, Settings, SettingsError

OLD = Settings(
    sidecar_key="bs-1",
    providers=(Provider("openai", "http://a/v1", api_key="sk-1"),),
    listeners=(Listener("unix:/run/a.sock", api_key="bk-1"),),
)


def but(**fields: object) -> Settings:
    """The settings in force with some that differ."""
    return msgspec.structs.replace(OLD, **fields)


class Reloaded:
    """A reload of these settings, and what was applied."""

    def __init__(self, wanted: Settings | Exception, broken: Exception | None = None) -> None:
        self.applied: list[Settings] = []
        self._wanted, self._broken = wanted, broken
        self.reloading = Reloading(self._load, self._apply, OLD)
        with capture_logs() as self.logs:
            self.result = self.reloading.reload()

    def _load(self) -> Settings:
        if isinstance(self._wanted, Exception):
            raise self._wanted
        return self._wanted

    def _apply(self, settings: Settings) -> None:
        if self._broken is not None:
            raise self._broken
        self.applied.append(settings)


def test_what_can_change_changes() -> None:
    wanted = but(log_level="debug", when_short="wait", providers=())
    done = Reloaded(wanted)
    assert done.result == "applied"
    assert done.applied == [wanted]
    assert done.reloading.settings == wanted
    assert set(done.logs[0]["changed"]) == {"log_level", "providers", "when_short"}


def test_what_needs_a_restart_is_named_and_kept() -> None:
    done = Reloaded(but(data_dir="/elsewhere", address="other:1", access_log=True))
    assert done.reloading.settings == but(access_log=True)
    assert set(done.logs[0]["settings"]) == {"data_dir", "address"}
    assert done.logs[0]["event"] == "settings_need_restart"
    assert set(done.reloading.kept) == {"data_dir", "address"}


def test_no_setting_is_forgotten() -> None:
    # Whoever adds a setting says here whether it can change while the sidecar runs.
    restart = {field.name for field in msgspec.structs.fields(Settings)} - LIVE
    assert restart == {
        "address",
        "admin_address",
        "envoy_access_log",
        "envoy_address",
        "envoy_insecure",
        "envoy_max_calls",
        "envoy_tls_cert",
        "envoy_tls_client_ca",
        "envoy_tls_key",
        "grpc_address",
        "grpc_insecure",
        "grpc_tls_cert",
        "grpc_tls_key",
        "max_reservations",
        "cut_streams",
        "data_dir",
        "http_address",
        "insecure",
        "sidecar_key",
        "sidecar_key_file",
        "socket_mode",
        "tls_ca",
        "workers",
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reloaded(SettingsError(["drain_s is 'x'; expected a whole number"])),
        lambda: Reloaded(but(log_level="debug"), broken=FileNotFoundError(2, "no such ca_file")),
    ],
)
def test_what_has_a_fault_changes_nothing(make: Callable[[], Reloaded]) -> None:
    done = make()
    assert done.result == "refused"
    assert done.reloading.settings is OLD
    assert done.logs[-1]["event"] == "settings_refused"
    assert done.logs[-1]["faults"]


def test_listeners_stay_where_they_are_and_may_stand_for_somebody_else() -> None:
    other = Listener("unix:/run/a.sock", api_key="bk-2", app="reports")
    assert merged(OLD, but(listeners=(other,))).settings.listeners == (other,)
    elsewhere = merged(OLD, but(listeners=(other, Listener("127.0.0.1:1"))))
    assert elsewhere.settings.listeners == OLD.listeners
    assert elsewhere.kept == ("listeners",)


def test_the_results_are_counted() -> None:
    done = Reloaded(SettingsError(["a fault"]))
    families = {
        family.name: family
        for family in OperationsMetrics(
            done.reloading, CredentialFiles(lambda: 0.0, every_s=1)
        ).collect()
    }
    counts = {s.labels["result"]: s.value for s in families["bursar_sidecar_reloads"].samples}
    assert counts == {"applied": 0, "unchanged": 0, "refused": 1}
    assert families["bursar_sidecar_last_reload_refused"].samples[0].value == 1


def test_no_secret_is_logged() -> None:
    done = Reloaded(but(providers=(Provider("openai", "http://a/v1", api_key="sk-2"),)))
    assert done.result == "applied"
    assert "sk-2" not in str(done.logs)
