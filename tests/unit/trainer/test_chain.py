"""A chain's figures against numbers worked out by hand, and the laws that bind them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.pins import Inherited
from rewarm_api.snapshot import Role
from rewarm_trainer.chain import Cell, Chain, Column
from rewarm_trainer.heat_map import heat_map
from rewarm_trainer.lineage import free_name

DOCUMENTS = 40


def cell(loss: float, seed: int = 0, noise: float = 0.0) -> Cell:
    """Documents of 100 labels and 400 bytes each."""
    own = np.random.default_rng(seed).normal(0, noise, DOCUMENTS)
    return Cell(100 * (loss + own - own.mean()), np.full(DOCUMENTS, 100.0), np.full(DOCUMENTS, 400.0))


def column(name: str, stage: int, losses: list[float | None], role: Role = Role.NEW) -> Column:
    return Column(name, stage, role, {row: cell(loss) for row, loss in enumerate(losses) if loss is not None})


# Rows: before the chain, after each of three stages. `code` is only known from the row before its stage on.
CHAIN = Chain(
    ["news", "wiki", "code"],
    [
        column("news", 1, [4.0, 3.0, 3.4, 3.6]),
        column("general", 1, [2.5, 2.6, 2.4, 2.3], Role.RETAINED),
        column("wiki", 2, [None, 3.5, 3.1, 3.0]),
        column("code", 3, [None, None, 5.0, 2.0]),
    ],
    vocabulary=1000,
)


def test_figures_by_hand() -> None:
    """Backward: news 3.0 - 3.6, general 2.6 - 2.3, wiki 3.1 - 3.0. Best before the last row: 3.0, 2.4, 3.1."""
    figures = CHAIN.summary()
    assert figures["backwardTransfer"] == pytest.approx((-0.6 + 0.3 + 0.1) / 3)
    assert figures["forgettingFromBest"] == pytest.approx((0.6 - 0.1 - 0.1) / 3)
    assert figures["forgetting"] == pytest.approx((0.6 + 0.0 + 0.0) / 3)
    assert figures["forwardTransfer"] == pytest.approx(math.log(1000) - (3.5 + 5.0) / 2)
    assert figures["forwardTransferFromBase"] is None, "the first base was never scored on wiki and code"


def test_forward_transfer_from_the_base_where_it_was_scored() -> None:
    chain = Chain(["a", "b"], [column("old", 1, [4.0, 3.0, 3.1]), column("new", 2, [5.0, 4.2, 3.0])], 1000)
    assert chain.forward_transfer_from_base() == pytest.approx(0.8)


def test_the_first_stage_has_nothing_to_forget() -> None:
    assert set(Chain(["only"], [column("news", 1, [4.0, 3.0])], 1000).summary().values()) == {None}


def test_what_the_first_base_knew_can_be_forgotten() -> None:
    chain = Chain(["a", "b"], [column("old", 1, [2.0, 2.5, 2.4], Role.RETAINED)], 1000)
    assert chain.forgetting_from_best() == pytest.approx(0.4)
    assert chain.backward_transfer() == pytest.approx(0.1)


losses = st.lists(st.floats(0.5, 10), min_size=4, max_size=4)


@given(st.lists(losses, min_size=1, max_size=5))
def test_laws(rows: list[list[float]]) -> None:
    """mammoth's forgetting is Chaudhry's, cut at zero set by set; neither is below minus backward transfer's part."""
    chain = Chain(["a", "b", "c"], [column(f"s{number}", 1, list(row)) for number, row in enumerate(rows)], 100)
    whole, best = chain.forgetting(), chain.forgetting_from_best()
    each = [max(0.0, row[3] - min(row[:3])) for row in rows]
    assert whole == pytest.approx(np.mean(each))
    assert whole >= 0
    assert whole >= best - 1e-9
    assert best >= -chain.backward_transfer() - 1e-9, "the stage's own row is among those the best is taken of"


def test_sets_carry_paired_intervals_and_verdicts() -> None:
    cells = {0: cell(4.0), 1: cell(3.0), 2: cell(3.5, seed=1, noise=0.1)}
    chain = Chain(["a", "b"], [Column("old", 1, Role.NEW, cells)], 1000)
    facts = chain.to_json()
    found = facts["sets"]["old"]
    assert (found["introduced"], found["best"], found["best_row"]) == ("a", "a", 1)
    assert found["since"]["low"] < 0.5 < found["since"]["high"]
    assert found["since"]["verdict"] == "Lose"
    assert [row["after"] for row in facts["rows"]] == [None, "a", "b"]
    assert facts["rows"][1]["bits_per_byte"]["old"] == pytest.approx(3.0 / math.log(2) / 4)


def test_other_labels_have_no_interval() -> None:
    """Another documentStart scores other tokens: the losses stand, a paired difference does not."""
    other = Cell(np.full(DOCUMENTS, 303.0), np.full(DOCUMENTS, 101.0), np.full(DOCUMENTS, 400.0))
    chain = Chain(["a", "b"], [Column("old", 1, Role.NEW, {1: cell(3.0), 2: other})], 1000)
    assert chain.to_json()["sets"]["old"]["since"] is None
    assert chain.backward_transfer() == pytest.approx(0.0)


def test_the_heat_map_stands_by_itself_and_shows_every_number() -> None:
    drawn = heat_map(CHAIN.to_json())
    tree = ElementTree.fromstring(drawn)
    words = ["".join(each.itertext()) for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("before the chain", "after code", "news", "3.600", "2.300"):
        assert expected in words
    assert words.count("not scored") == 3
    fills = [each.get("fill") for each in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert fills.count("rgb(255,255,255)") == 4, "each set at its own stage, where nothing has changed yet"


def test_names_stay_and_yield_to_those_of_the_run() -> None:
    origin = Inherited(run="wiki", uid="1", name="news")
    assert free_name("news", origin, set()) == "news"
    assert free_name("news", origin, {"news"}) == "wiki-news"
    assert free_name("news", origin, {"news", "wiki-news"}) == "wiki-news-2"
    long = Inherited(run="r" * 40, uid="1", name="news")
    found = free_name("news", long, {"news", "r" * 40})
    assert found == "r" * 37 + "-2"
    assert len(found) <= 40
