"""Items, the prompt form that suits a model, and what two models' answers come to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_trainer import task_answers
from rewarm_trainer.items import Item, Mark, Task, TaskForm, best_form, selection_of
from rewarm_trainer.task_answers import TaskAnswers, common, judged, negative_flips


def task(items: int, forms: int = 2, prefix: str = "d") -> Task:
    own = tuple(Item(number, f"{prefix}{number}", ()) for number in range(items))
    return Task("t", "acc", tuple(TaskForm(f"form-{n}", 0, own, lambda *_: None) for n in range(forms)))


def mark(right: bool, *nats: float, gold: int = 0) -> Mark:
    return Mark(right, (gold,) if nats else None, nats, str(int(np.argmax(nats))) if nats else "x")


def answers(right: list[bool], form: str = "", prefix: str = "d", losses: list[float] | None = None) -> TaskAnswers:
    nats = losses or [0.7] * len(right)
    marks = tuple(
        mark(each, math.log(math.exp(-loss)), math.log(1 - math.exp(-loss)))
        for each, loss in zip(right, nats, strict=True)
    )
    numbers = tuple(range(len(right)))
    return TaskAnswers("t", "acc", {form: "sha256:x"}, form, 0, numbers, tuple(f"{prefix}{n}" for n in numbers), marks)


@given(st.integers(2, 300), st.integers(1, 99))
def test_the_items_that_choose_are_a_share_of_the_data_whatever_its_order(items: int, percent: int) -> None:
    whole = task(items)
    try:
        chosen = selection_of(whole, f"{percent}%")
    except ValueError:
        assert math.ceil(percent * items / 100) >= items
        return
    assert len(chosen) == math.ceil(percent * items / 100) < items
    backwards = Task("t", "acc", tuple(TaskForm(f.name, 0, f.items[::-1], f.mark) for f in whole.forms))
    assert selection_of(backwards, f"{percent}%") == chosen


def test_one_form_needs_no_items_to_be_chosen() -> None:
    assert selection_of(task(10, forms=1), "20%") == frozenset()


def test_a_model_gets_the_form_with_most_right_answers_then_the_least_loss_then_the_first() -> None:
    good, poor = mark(True, -0.1, -3.0), mark(False, -3.0, -0.1)
    unsure = mark(True, -0.6, -0.8)
    assert best_form([[poor, good], [good, good], [poor, poor]]) == 1
    assert best_form([[unsure, poor], [good, poor]]) == 1
    assert best_form([[good, poor], [good, poor]]) == 0
    assert best_form([[mark(False)], [mark(True)]]) == 1, "written answers have no loss"


def test_the_choice_loss_is_the_share_of_the_right_choices_in_nats() -> None:
    assert mark(True, math.log(0.2), math.log(0.6)).choice_loss == pytest.approx(-math.log(0.25))
    several = Mark(True, (0, 2), tuple(map(math.log, (0.2, 0.5, 0.3))), "0")
    assert several.choice_loss == pytest.approx(-math.log(0.5))
    assert mark(True).choice_loss is None
    assert Mark(True, (0,), (-1.0,), "1").choice_loss is None, "one choice is no choice"


def test_a_task_is_judged_by_item() -> None:
    base, candidate = [True] * 30 + [False] * 30, [True] * 26 + [False] * 16 + [True] * 18
    line = judged(answers(base), answers(candidate))
    assert (line["items"], line["baseline"]["accuracy"], line["final"]["accuracy"]) == (60, 0.5, 44 / 60)
    assert line["delta"]["mean"] == pytest.approx(14 / 60)
    assert line["flips"]["negative"]["mean"] == pytest.approx(4 / 60)
    assert line["flips"]["positive"]["mean"] == pytest.approx(18 / 60)
    assert line["verdict"] == "Win"
    assert line["flips"]["mcnemar_p"] < 0.01
    assert line["choice_loss_delta"]["mean"] == 0
    back = judged(answers(candidate), answers(base))
    assert back["verdict"] == "Lose"
    assert back["delta"]["mean"] == pytest.approx(-14 / 60)
    assert json.dumps(line, allow_nan=False)


def test_few_items_have_no_verdict_and_other_items_are_refused() -> None:
    assert judged(answers([True] * 29), answers([False] * 29))["verdict"] is None
    with pytest.raises(ValueError, match="not those of the base"):
        judged(answers([True]), answers([True], prefix="other"))


def test_the_choice_loss_sees_what_accuracy_does_not() -> None:
    right = [True] * 40
    line = judged(answers(right), answers(right, losses=[0.5 + 0.001 * n for n in range(40)]))
    assert line["verdict"] == "Tie"
    assert line["choice_loss_delta"]["high"] < 0


def test_answers_of_other_forms_are_not_compared_word_by_word() -> None:
    assert judged(answers([True], "a"), answers([True], "a"))["flips"]["negative_any"] is not None
    assert judged(answers([True], "a"), answers([True], "b"))["flips"]["negative_any"] is None


def test_verdicts_are_counted_and_flips_added_up() -> None:
    win = judged(answers([False] * 40), answers([True] * 40))
    lose = judged(answers([True] * 60), answers([False] * 60))
    few = judged(answers([True] * 3), answers([True] * 3))
    found = task_answers.benchmark_json({"a": win, "b": lose, "c": few})
    assert found["verdicts"] == {"Win": 1, "Tie": 0, "Lose": 1, "Undecided": 1}
    assert found["negative_flips"]["mean"] == pytest.approx(60 / 103)
    assert found["negative_flips"]["items"] == 103
    assert negative_flips({"x": found, "y": task_answers.benchmark_json({"a": win})}).mean == pytest.approx(60 / 143)
    assert "accuracy" not in found
    assert "delta" not in found


def test_answers_survive_json() -> None:
    value = answers([True, False], "f")
    assert TaskAnswers.from_json(json.loads(json.dumps(value.to_json()))) == value
    assert value.to_json()["items"][0]["log_probabilities"] == list(value.marks[0].nats)


def test_two_runs_are_compared_on_the_items_that_both_judged() -> None:
    one, two = answers([True, False, True, True]), answers([False, True, True])
    two = TaskAnswers(**{**two.__dict__, "digests": ("d3", "d1", "d9")})
    left, right = common(one, two)
    assert (left.digests, right.digests) == (("d1", "d3"), ("d1", "d3"))
    assert (left.right, right.right) == ([False, True], [True, False])
