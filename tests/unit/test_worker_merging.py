"""Several workers as one: metrics, readiness, and when one that died is started again."""

from prometheus_client.parser import text_string_to_metric_families

from bursar_sidecar.metrics import Metrics
from bursar_sidecar.workers.merging import merged_metrics, merged_readiness, worker_metrics
from bursar_sidecar.workers.worker import LONGEST_PAUSE_S, SOUND_AFTER_S, pause_after


def counted(**refusals: int) -> str:
    metrics = Metrics()
    for reason, count in refusals.items():
        for _ in range(count):
            metrics.refused(reason)
    metrics.held_up(0.0003)
    return metrics.text().decode()


def test_every_sample_keeps_its_value_and_names_its_worker() -> None:
    own = worker_metrics({0: True, 1: False}, {0: 0, 1: 3})
    text = own + merged_metrics({"0": counted(key_unknown=2), "1": counted(overloaded=5)})
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a metric stands in two places"
    found = {
        (sample.name, sample.labels["worker"], sample.labels.get("reason")): sample.value
        for family in families
        for sample in family.samples
    }
    assert found["bursar_sidecar_refusals_total", "0", "key_unknown"] == 2
    assert found["bursar_sidecar_refusals_total", "1", "overloaded"] == 5
    assert ("bursar_sidecar_refusals_total", "0", "overloaded") not in found
    assert found["bursar_sidecar_calls_in_flight", "1", None] == 0
    assert found["bursar_sidecar_before_sending_seconds_count", "0", None] == 1
    assert found["bursar_sidecar_worker_up", "1", None] == 0
    assert found["bursar_sidecar_worker_restarts_total", "1", None] == 3
    types = {family.name: family.type for family in families}
    assert types["bursar_sidecar_before_sending_seconds"] == "histogram"
    assert types["bursar_sidecar_refusals"] == "counter"


def test_braces_in_a_value_are_no_labels() -> None:
    text = '# TYPE a gauge\na{x="{b} c"} 1.0\n'
    assert merged_metrics({"7": text}) == '# TYPE a gauge\na{worker="7",x="{b} c"} 1.0\n'


def test_ready_is_when_those_who_run_are() -> None:
    assert merged_readiness({0: "", 1: ""}) == ""
    # The kernel gives a worker that does not run no connection.
    assert merged_readiness({0: "", 1: None}) == ""
    assert merged_readiness({0: "draining", 1: ""}) == "worker 0: draining"
    assert merged_readiness({0: None, 1: None}) == "no worker runs"


def test_a_sound_worker_comes_back_at_once_and_one_that_keeps_dying_ever_later() -> None:
    assert pause_after(SOUND_AFTER_S, 5.0) == 0
    pauses = [0.0]
    for _ in range(12):
        pauses.append(pause_after(0.5, pauses[-1]))
    assert pauses == sorted(pauses)
    assert 0 < pauses[1] < 1
    assert pauses[-1] == LONGEST_PAUSE_S
