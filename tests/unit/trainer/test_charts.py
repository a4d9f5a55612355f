"""Charts are well-formed, stay inside their frame, lose no spike and name what they show."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_trainer.charts import (
    Band,
    Bracket,
    Chart,
    Line,
    Rule,
    decimals,
    format_percent,
    format_quantity,
    format_rate,
    interval_svg,
    smooth,
    svg,
    thin,
    ticks,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)
rising = st.lists(st.tuples(st.integers(0, 10**13), finite), min_size=1, max_size=40).map(
    lambda points: sorted(dict(points).items())
)


def chart(points, **more) -> Chart:
    return Chart("key", "Loss <on> a", "From 3 & down", [Line(points, "tone-new", dots=True)], "nats", **more)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (750, "750"), (1000, "1K"), (20_000, "20K"), (1_500_000, "1.5M"), (2_000_683_008, "2B"), (2e12, "2T")],
)
def test_token_axis(value: float, text: str) -> None:
    assert format_quantity(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (3e-4, "3e-4"), (1.65e-4, "1.65e-4"), (0.001, "1e-3"), (1, "1e0")]
)
def test_learning_rate_axis(value: float, text: str) -> None:
    assert format_rate(value) == text


def test_percent_axis() -> None:
    assert [format_percent(value) for value in (0, 0.05, 0.125, 1)] == ["0%", "5%", "12.5%", "100%"]


@given(low=finite, width=st.floats(1e-6, 1e6), count=st.integers(2, 8))
def test_ticks_are_evenly_spaced_inside_and_neither_few_nor_many(low: float, width: float, count: int) -> None:
    high = low + width
    if high - low < 1e-9 * max(1.0, abs(low)):
        return
    found = ticks(low, high, count)
    assert 1 <= len(found) <= 2 * count + 2
    slack = 1e-6 * (high - low) + 1e-9 * abs(high)
    assert all(low - slack <= value <= high + slack for value in found)
    assert found == sorted(set(found))


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 3_932_160, 5) == [0, 1e6, 2e6, 3e6]
    assert ticks(2.87, 3.71, 4) == [3.0, 3.5]
    assert decimals([3.02, 3.04]) == 2
    assert decimals([0.0, 0.5]) == 1
    assert decimals([0.0, 20.0]) == 0


@given(rising, st.floats(0, 1e13))
def test_a_running_mean_keeps_ends_count_and_range(points: list, span: float) -> None:
    smoothed = smooth(points, span)
    assert [x for x, _ in smoothed] == [x for x, _ in points]
    assert math.isclose(smoothed[0][1], points[0][1], rel_tol=1e-6, abs_tol=1e-6)
    low, high = min(y for _, y in points), max(y for _, y in points)
    assert all(low - 1e-3 <= y <= high + 1e-3 for _, y in smoothed)


def test_a_running_mean_of_a_straight_line_is_that_line() -> None:
    line = [(float(x), 2.0 * x + 1) for x in range(20)]
    assert [y for _, y in smooth(line, 6)] == pytest.approx([y for _, y in line])


@given(st.lists(finite, min_size=1, max_size=500), st.integers(1, 20))
def test_thinning_keeps_the_extremes_the_ends_and_the_order(values: list[float], buckets: int) -> None:
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thin(points, buckets)
    assert len(kept) <= max(len(points) if len(points) <= 4 * buckets else 0, 4 * buckets)
    assert kept == sorted(kept, key=lambda point: point[0])
    assert {kept[0], kept[-1]} == {points[0], points[-1]}
    assert min(y for _, y in kept) == min(values)
    assert max(y for _, y in kept) == max(values)


def coordinates(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", element.get("d", ""))]


@given(rising)
def test_every_chart_is_well_formed_and_inside_its_frame(points: list) -> None:
    band = Band([(x, y, y) for x, y in points], "tone-new")
    drawn = svg(chart(points, bands=[band], rules=[Rule(points[0][1], "untouched base")]), 460, 270)
    root = ElementTree.fromstring(drawn)
    assert root.find("title").text == "Loss <on> a"
    assert root.find("desc").text == "From 3 & down"
    assert root.get("aria-labelledby") == "key-title key-desc"
    for path in root.iter("path"):
        for x, y in coordinates(path):
            assert 0 <= x <= 460
            assert 0 <= y <= 270


def test_a_value_that_is_not_finite_breaks_the_line() -> None:
    drawn = svg(chart([(0, 1.0), (1, 2.0), (2, math.nan), (3, 2.0), (4, 1.0)]))
    line = next(path for path in ElementTree.fromstring(drawn).iter("path") if "line" in path.get("class"))
    assert line.get("d").count("M") == 2
    assert "nan" not in drawn


def test_nothing_to_draw_is_no_chart() -> None:
    assert svg(chart([])) == ""
    assert svg(chart([(0, math.nan)], rules=[Rule(1.0, "base")])) == ""


def test_a_single_point_is_seen() -> None:
    assert "<circle" in svg(Chart("k", "t", "d", [Line([(5, 1.0)])], "y"))


def test_a_flat_line_has_room_around_it() -> None:
    root = ElementTree.fromstring(svg(chart([(0, 3.0), (10, 3.0)])))
    line = next(path for path in root.iter("path") if "line" in path.get("class"))
    assert all(30 < y < 230 for _, y in coordinates(line))


def test_an_enlarged_part_scales_to_what_it_shows() -> None:
    points = [(0, 1.0), (10, 2.0), (20, 1.5), (1000, 50.0)]
    drawn = svg(chart(points, x_range=(0, 40)))
    labels = [text.text for text in ElementTree.fromstring(drawn).iter("text")]
    assert "40" in labels
    assert "50" not in labels
    assert "2.0" in labels


def test_a_band_far_wider_than_the_curve_does_not_flatten_it() -> None:
    points = [(0, 3.0), (10, 2.0)]
    root = ElementTree.fromstring(svg(chart(points, bands=[Band([(0, 3.0, 3.0), (10, -500.0, 2.1)])])))
    line = next(path for path in root.iter("path") if "line" in path.get("class"))
    (_, start), (_, end) = coordinates(line)
    assert end - start > 40


def test_the_measure_of_a_gap_says_how_deep() -> None:
    drawn = svg(chart([(0, 1.0), (10, 2.0)], brackets=[Bracket(10, 1.0, 2.0, "gap +1.000")]))
    label = next(text for text in ElementTree.fromstring(drawn).iter("text") if text.text == "gap +1.000")
    assert label.get("text-anchor") == "end", "at the right edge the label stands to the left"


@given(st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1))
def test_an_interval_is_drawn_where_it_lies(mean: float, below: float, above: float) -> None:
    root = ElementTree.fromstring(interval_svg(mean, mean - below, mean + above, (-4.0, 4.0), "tone-old", width=216))
    zero, whisker, dot = (root.find(f"*[@class='{name}']") for name in ("zero", "whisker tone-old", "dot tone-old"))
    assert float(zero.get("x1")) == 108
    assert float(dot.get("cx")) == pytest.approx(108 + 25 * mean, abs=0.06)
    assert float(whisker.get("x1")) <= float(dot.get("cx")) <= float(whisker.get("x2"))
