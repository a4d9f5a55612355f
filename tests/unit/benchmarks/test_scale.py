"""A fleet's load is units times sizes; units are read and counted, never typed."""

import dataclasses
import json
from pathlib import Path

import pytest

from scale import fleet, units
from scale.fleet import Fleet, Units

UNITS = Units(
    heartbeat_bytes=1000, object_bytes=5000, heartbeat_seconds=30.0, review_seconds=60.0, status_seconds=10.0,
    writes_until_job=7.0, start_cpu_seconds=0.02, pod_event_cpu_seconds=0.004, operator_megabytes_a_run=0.05,
    run_series=60, process_series=2, metrics_a_log_step=8.0,
    mlflow_batches_a_second=40.0, prometheus_bytes_a_series=5000.0, requests_a_commit=20.0, requests_a_start=10.0,
    part_bytes=12_000_000,
)  # fmt: skip
FLEET = Fleet(nodes=2400, nodes_a_run=8, run_hours=1.0, checkpoint_minutes=10.0, log_seconds=10.0, parameters=5e6)


def test_load_is_units_times_the_fleet() -> None:
    load = fleet.load_of(UNITS, FLEET)
    assert load.runs == 300
    assert load.heartbeats == pytest.approx(10.0)
    assert load.reviews == pytest.approx(5.0)
    assert load.status_writes == pytest.approx(10.0), "the heartbeat paces it, not the operator's own interval"
    assert load.start_writes == pytest.approx(300 / 3600 * 7)
    assert load.writes == pytest.approx(15.0 + 300 / 3600 * 7)
    assert load.watch_bytes == pytest.approx(10.0 * 5000 * 2)
    assert load.series == 300 * (60 + 7 * 2)
    assert load.series_bytes == load.series * 5000
    assert load.mlflow_metrics == pytest.approx(240.0)
    assert load.s3_requests == pytest.approx(300 * (20 + 5) / 600 + 300 / 3600 * 8 * (10 + 5)), "each pod fetches it"


def test_small_runs_are_the_dear_case() -> None:
    small = fleet.load_of(UNITS, dataclasses.replace(FLEET, nodes_a_run=1))
    assert small.writes > fleet.load_of(UNITS, FLEET).writes * 7.9


@pytest.mark.parametrize(("load", "limit", "count"), [(0.0, 1.0, 1), (1.0, 1.0, 1), (1.01, 1.0, 2), (100.0, 50.0, 2)])
def test_shards_are_rounded_up(load: float, limit: float, count: int) -> None:
    assert fleet.shards(load, limit) == count


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit of 0"):
        fleet.shards(1.0, 0)


def test_the_operators_costs_are_read_from_its_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operator.md").read_text()
    found = units.operator_costs(page)
    assert set(found) <= {field.name for field in dataclasses.fields(Units)}
    assert all(value > 0 for value in found.values())
    with pytest.raises(ValueError, match=r"operator\.md has no line"):
        units.operator_costs("nothing")


def test_series_are_counted_from_the_exporter() -> None:
    whole, process = units.series_of_a_run()
    assert whole > 20 > process >= 2
    assert units.count_series('# HELP a b\na{x="1"} 2\n\nb 3\n') == 2


def test_a_heartbeat_is_one_that_the_operator_reads() -> None:
    from rewarm_api.reported import read_report

    told = units.heartbeat()
    assert read_report(told).evaluation[0].set == "new"
    assert json.loads(told)["rewarm"]["progress"]["step"] == 12_345
