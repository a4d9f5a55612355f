from __future__ import annotations

import pytest

from rewarm_bench import pages
from rewarm_bench.effects import Estimate


def test_numbers_with_their_intervals() -> None:
    estimate = Estimate(0.1234, -0.05, 0.3)
    assert pages.words(estimate) == "+0.123 [-0.050, +0.300]"
    assert pages.percent(estimate) == "12.3% [-5.0%, 30.0%]"
    assert pages.percent(estimate, 0) == "12% [-5%, 30%]"


def test_a_table_keeps_bars_and_refuses_ragged_rows() -> None:
    assert pages.table(("a", "b"), [("x|y", "2")]) == "| a | b |\n| --- | --- |\n| x\\|y | 2 |"
    with pytest.raises(ValueError, match="3 cells under 2 headings"):
        pages.table(("a", "b"), [("1", "2", "3")])


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = "before <b> old <e> after <b2> other <e2>"
    once = pages.between(page, "<b>", "<e>", "new")
    assert once == "before <b>\nnew\n<e> after <b2> other <e2>"
    assert pages.between(once, "<b>", "<e>", "new") == once


@pytest.mark.parametrize("page", ["none", "<b> only", "<e> turned <b>", "<b><b><e>"])
def test_a_page_without_its_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        pages.between(page, "<b>", "<e>", "new")
