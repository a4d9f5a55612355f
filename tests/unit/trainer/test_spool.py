"""The spool loses nothing, repeats nothing and survives torn writes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer.spool import Point, Spool


def everything(spool: Spool, limit: int = 3) -> list[Point]:
    """Deliver batch by batch, as the courier does."""
    points: list[Point] = []
    while not spool.drained:
        batch = spool.read(limit)
        points.extend(batch.points)
        spool.acknowledge(batch.end)
    return points


def test_points_come_back_in_order_with_their_own_timestamps(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"train/loss": 2.5, "train/learning_rate": 1e-4}, tokens=1024, timestamp=1000)
    spool.append({"train/loss": 2.25}, tokens=2048, timestamp=1001)
    assert spool.pending == 3
    assert everything(spool) == [
        Point("train/loss", 2.5, 1024, 1000),
        Point("train/learning_rate", 1e-4, 1024, 1000),
        Point("train/loss", 2.25, 2048, 1001),
    ]
    assert spool.pending == 0
    assert spool.empty


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_dropped_and_its_neighbours_stay(tmp_path: Path, value: float) -> None:
    spool = Spool(tmp_path)
    spool.append({"train/loss": value, "train/grad_norm": 1.0}, tokens=1, timestamp=1)
    assert everything(spool) == [Point("train/grad_norm", 1.0, 1, 1)]


def test_a_line_torn_by_a_killed_writer_is_cut_off_and_the_rest_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"train/loss": 1.0}, 1, 1)
    spool.close()
    with open(tmp_path / "points.jsonl", "ab") as file:
        file.write(b'{"t":2,"s":2,"m":{"train/lo')
    again = Spool(tmp_path)
    again.append({"train/loss": 3.0}, 3, 3)
    assert [point.step for point in everything(again)] == [1, 3]


def test_a_recomputed_step_does_not_become_a_second_point(tmp_path: Path) -> None:
    first = Spool(tmp_path, once=["train/tokens_per_second"])
    first.append({"train/loss": 1.5, "train/tokens_per_second": 900.0}, tokens=64, timestamp=1)
    first.close()
    resumed = Spool(tmp_path, once=["train/tokens_per_second"])
    resumed.append({"train/loss": 1.5, "train/tokens_per_second": 1100.0}, tokens=64, timestamp=2)
    assert everything(resumed) == [
        Point("train/loss", 1.5, 64, 1),
        Point("train/tokens_per_second", 900.0, 64, 1),
    ]


def test_other_rows_after_a_rollback_are_another_point(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"train/loss": 9.0}, tokens=64, timestamp=1)
    spool.append({"train/loss": 1.5}, tokens=64, timestamp=2)
    assert [point.value for point in everything(spool)] == [9.0, 1.5]


def test_another_run_gets_everything_again_the_same_run_only_the_rest(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.belongs_to("a")
    spool.append({"train/loss": 1.0}, 1, 1)
    everything(spool)
    spool.append({"train/loss": 2.0}, 2, 2)
    spool.close()
    same = Spool(tmp_path)
    same.belongs_to("a")
    assert same.run_id == "a"
    assert [point.step for point in same.read(10).points] == [2]
    same.belongs_to("b")
    assert [point.step for point in same.read(10).points] == [1, 2]


def test_a_receipt_beyond_the_spool_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text(json.dumps({"run_id": "a", "acknowledged": 10**6}))
    spool = Spool(tmp_path)
    spool.append({"train/loss": 1.0}, 1, 1)
    assert spool.run_id == "a"
    assert len(everything(spool)) == 1


def test_a_long_line_is_read_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({f"eval/set-{number:05d}-{'x' * 200}/loss": float(number) for number in range(1000)}, 1, 1)
    assert len(everything(spool, limit=1)) == 1000


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
from rewarm_trainer.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
spool = Spool(Path(sys.argv[1]))
assert spool.append({"train/loss": 1.0}, 1, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (50, limit))
assert not spool.append({"train/loss": 2.0}, 2, 2)
assert not spool.append({"train/loss": 3.0}, 3, 3)
assert spool.pending == 3 and not spool.empty
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
assert spool.append({"train/loss": 4.0}, 4, 4)
"""


def test_a_full_disk_costs_no_point_and_tears_no_line(tmp_path: Path) -> None:
    """A file size limit of the operating system stands for the full disk: the kernel itself refuses the write."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", DISK_FULL, str(tmp_path)], env=environment, check=True, timeout=60)
    assert [point.value for point in everything(Spool(tmp_path))] == [1.0, 2.0, 3.0, 4.0]


calls = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["train/loss", "eval/a/loss", "train/grad_norm"]), st.floats(), max_size=3),
        st.integers(0, 2**62),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(calls=calls, crashes=st.sets(st.integers(0, 11)), limit=st.integers(1, 5))
def test_whatever_is_killed_between_sending_and_acknowledging_every_point_arrives(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[dict[str, float], int]], crashes: set[int], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    arrived: set[Point] = set()
    expected = set()
    spool = Spool(folder)
    for number, (metrics, tokens) in enumerate(calls):
        spool.append(metrics, tokens, timestamp=number)
        expected |= {(name, tokens, value) for name, value in metrics.items() if math.isfinite(value)}
        batch = spool.read(limit)
        arrived |= set(batch.points)
        if number in crashes:  # sent, but killed before the receipt was written
            spool.close()
            spool = Spool(folder)
        else:
            spool.acknowledge(batch.end)
    arrived |= set(everything(spool, limit))
    spool.close()
    assert {(point.name, point.step, point.value) for point in arrived} == expected
