"""What is counted of operations: reloads of the settings, credentials that are from files."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bursar_sidecar.credential_files import CredentialFiles
from bursar_sidecar.reloading import Reloading

_RELOADS: Final = "Reloads of the settings, by what came of them: applied, unchanged, refused."


class OperationsMetrics(Collector):
    """A collector: read when scraped."""

    def __init__(self, reloading: Reloading, files: CredentialFiles) -> None:
        self._reloading = reloading
        self._files = files

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        reloads = CounterMetricFamily("bursar_sidecar_reloads", _RELOADS, labels=("result",))
        for result, count in self._reloading.counts.items():
            reloads.add_metric((result,), count)
        yield reloads
        yield GaugeMetricFamily(
            "bursar_sidecar_last_reload_refused",
            "1 while the settings in force are older than their file, which has a fault.",
            int(self._reloading.last == "refused"),
        )
        yield GaugeMetricFamily(
            "bursar_sidecar_settings_waiting_for_restart",
            "Settings that differ from what is in force until a restart.",
            len(self._reloading.kept),
        )
        faulty = GaugeMetricFamily(
            "bursar_sidecar_credential_file_faulty",
            "1 while a credential's file can't be read and the last one is used on.",
            labels=("owner",),
        )
        faults = self._files.faults
        for owner in self._files.owners:
            faulty.add_metric((owner,), int(owner in faults))
        yield faulty
        yield CounterMetricFamily(
            "bursar_sidecar_credentials_rotated",
            "Credentials read anew because their file changed.",
            self._files.rotated_count,
        )
