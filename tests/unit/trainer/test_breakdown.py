"""A set's verdict by the columns of its documents."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewarm_trainer.breakdown import REST, breakdown, periods
from rewarm_trainer.statistics import paired_delta


def scored(labels: list[str | None], dates: list[str | None] | None = None, *, seed: int = 0):
    draw = np.random.default_rng(seed)
    count = len(labels)
    tokens = draw.integers(50, 400, count)
    before = tokens * draw.normal(3.0, 0.3, count)
    after = before + tokens * np.where([label == "de" for label in labels], 0.2, -0.1) * draw.normal(1, 0.1, count)
    size = tokens * 4
    base = {"nats": before.tolist(), "labels": tokens.tolist(), "bytes": size.tolist()}
    final = {**base, "nats": after.tolist(), "label_values": labels, "dates": dates or [None] * count}
    return base, final


def test_each_group_is_paired_over_its_own_documents() -> None:
    labels = ["de"] * 40 + ["en"] * 45 + [None] * 10
    base, final = scored(labels)
    found = breakdown(base, final)
    assert list(found) == ["label"]
    assert list(found["label"]) == ["de", "en", ""]
    german = found["label"]["de"]
    rows = slice(0, 40)
    alone = paired_delta(np.subtract(final["nats"], base["nats"])[rows], final["labels"][rows])
    assert german["delta"] == alone.to_json()
    assert (german["verdict"], found["label"]["en"]["verdict"], found["label"][""]["verdict"]) == ("Lose", "Win", None)
    assert sum(group["documents"] for group in found["label"].values()) == 95
    nats, size = sum(final["nats"][rows]), sum(final["bytes"][rows])
    assert german["final"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)


def test_groups_add_up_to_the_set() -> None:
    base, final = scored([f"label-{number % 7}" for number in range(200)])
    groups = breakdown(base, final)["label"].values()
    total = sum(group["delta"]["mean"] * group["tokens"] for group in groups) / sum(final["labels"])
    whole = paired_delta(np.subtract(final["nats"], base["nats"]), final["labels"])
    assert total == pytest.approx(whole.mean)


def test_no_columns_no_breakdown() -> None:
    assert breakdown(*scored([None] * 40)) is None


def test_rare_values_share_a_group() -> None:
    labels = [f"label-{number:02d}" for number in range(60)] * 2 + ["label-00"] * 5
    found = breakdown(*scored(labels))["label"]
    assert len(found) == 50
    assert list(found)[-1] == REST
    assert found[REST]["documents"] == 2 * 11


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (["2023-05-01", "2024-01-31T10:00:00Z", None], ["2023", "2024", None]),
        (["2024-05-01", "2024-01-31 10:00", "2024-01"], ["2024-05", "2024-01", "2024-01"]),
        (["spring", "autumn"], ["spring", "autumn"]),
    ],
)
def test_dates_by_year_month_or_as_they_stand(dates: list[str | None], expected: list[str | None]) -> None:
    assert periods(dates) == expected
    assert set(breakdown(*scored([None] * len(dates), dates))["date"]) == {each or "" for each in expected}
