"""What one model answered to a task, and what two models' answers come to. Pure; keeps every item's log-probabilities.

Accuracies are paired by item: above zero the candidate is better. There is no average over tasks: tasks differ in what
a point is worth, so each has its own verdict, and verdicts are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewarm_trainer.flips import ItemFlips, exact_share, item_flips
from rewarm_trainer.items import Mark
from rewarm_trainer.statistics import Delta, paired_delta

VERDICTS = ("Win", "Tie", "Lose")


@dataclass(frozen=True)
class TaskAnswers:
    """A model's marks on the judged items of a task, in the order of the data.

    `form`: the prompt form that suited the model (empty: the task's own), chosen on `chosen_on` other items, on which
    the forms had the accuracies `form_accuracies`. `asked`: digest of everything asked, by form. `cut`: requests whose
    context did not fit whole.
    """

    name: str
    metric: str
    asked: Mapping[str, str]
    form: str
    few_shot: int
    numbers: tuple[int, ...]
    digests: tuple[str, ...]
    marks: tuple[Mark, ...]
    chosen_on: int = 0
    form_accuracies: Mapping[str, float] | None = None
    cut: int = 0

    @property
    def right(self) -> list[bool]:
        return [mark.is_right for mark in self.marks]

    @property
    def choice_losses(self) -> list[float | None]:
        return [mark.choice_loss for mark in self.marks]

    def summary(self) -> dict[str, Any]:
        """Accuracy, mean choice loss (nats per item, where all items have one) and the form."""
        losses = [loss for loss in self.choice_losses if loss is not None]
        whole = bool(losses) and len(losses) == len(self.marks)
        return {
            "accuracy": sum(self.right) / len(self.marks),
            "choice_loss": math.fsum(losses) / len(losses) if whole else None,
            "form": self.form or None,
            "few_shot": self.few_shot,
            "cut": self.cut,
        }

    def to_json(self) -> dict[str, Any]:
        items = [
            {
                "number": number,
                "digest": digest,
                "right": mark.is_right,
                "answer": mark.answer,
                "log_probabilities": list(mark.nats),
                "right_choices": None if mark.right is None else list(mark.right),
            }
            for number, digest, mark in zip(self.numbers, self.digests, self.marks, strict=True)
        ]
        return {
            "task": self.name,
            "metric": self.metric,
            "asked": dict(self.asked),
            "form": self.form,
            "few_shot": self.few_shot,
            "chosen_on": self.chosen_on,
            "form_accuracies": None if self.form_accuracies is None else dict(self.form_accuracies),
            "cut": self.cut,
            "items": items,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TaskAnswers:
        items = value["items"]
        return TaskAnswers(
            value["task"],
            value["metric"],
            value["asked"],
            value["form"],
            value["few_shot"],
            tuple(item["number"] for item in items),
            tuple(item["digest"] for item in items),
            tuple(_mark(item) for item in items),
            value["chosen_on"],
            value["form_accuracies"],
            value["cut"],
        )


def _mark(item: Mapping[str, Any]) -> Mark:
    right = item["right_choices"]
    nats = tuple(-math.inf if value is None else float(value) for value in item["log_probabilities"])
    return Mark(item["right"], None if right is None else tuple(right), nats, item["answer"])


def flips_between(base: TaskAnswers, candidate: TaskAnswers) -> ItemFlips:
    """Flips over the items that both judged. Answers are compared where both were asked in the same form."""
    same = base.form == candidate.form
    return item_flips(
        base.right,
        candidate.right,
        base_answers=[mark.answer for mark in base.marks] if same else None,
        answers=[mark.answer for mark in candidate.marks] if same else None,
    )


def judged(base: TaskAnswers, candidate: TaskAnswers) -> dict[str, Any]:
    """Base and candidate on one task, as report.json has it. Raises ValueError when they judged other items."""
    if base.digests != candidate.digests:
        raise ValueError(f"{base.name}: the items are not those of the base")
    flips = flips_between(base, candidate)
    return {
        "metric": base.metric,
        "items": flips.items,
        "form_items": base.chosen_on,
        "baseline": base.summary(),
        "final": candidate.summary(),
        "delta": _interval(flips.net),
        "choice_loss_delta": _choice_loss_delta(base, candidate),
        "flips": flips.to_json(),
        "verdict": flips.verdict,
    }


def _interval(delta: Delta) -> dict[str, Any]:
    value = delta.to_json()
    return {name: value[name] for name in ("mean", "low", "high", "confidence")}


def _choice_loss_delta(base: TaskAnswers, candidate: TaskAnswers) -> dict[str, Any] | None:
    """Candidate minus base choice loss, nats per item and below zero better; None where an item has no choices."""
    pairs = list(zip(base.choice_losses, candidate.choice_losses, strict=True))
    known = [(old, new) for old, new in pairs if old is not None and new is not None]
    if not pairs or len(known) < len(pairs):
        return None
    return _interval(paired_delta(np.array([new - old for old, new in known]), np.ones(len(known))))


def common(base: TaskAnswers, other: TaskAnswers) -> tuple[TaskAnswers, TaskAnswers]:
    """Both cut to the items that both judged, in the order of the first; for runs that split their items apart."""
    places: dict[str, list[int]] = {}
    for place, digest in enumerate(other.digests):
        places.setdefault(digest, []).append(place)
    pairs = [(place, places[digest].pop(0)) for place, digest in enumerate(base.digests) if places.get(digest)]
    return _picked(base, [one for one, _ in pairs]), _picked(other, [two for _, two in pairs])


def _picked(answers: TaskAnswers, places: Sequence[int]) -> TaskAnswers:
    def pick(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[place] for place in places)

    return replace(answers, numbers=pick(answers.numbers), digests=pick(answers.digests), marks=pick(answers.marks))


def benchmark_json(tasks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A benchmark of judged tasks: verdicts counted, flips added up over all its items; never a bare average."""
    verdicts = {word: sum(task["verdict"] == word for task in tasks.values()) for word in VERDICTS}
    verdicts["Undecided"] = sum(task["verdict"] is None for task in tasks.values())
    return {"tasks": dict(tasks), "verdicts": verdicts, "negative_flips": share_of([tasks])}


def negative_flips(benchmarks: Mapping[str, Mapping[str, Any]]) -> Delta:
    """Negative flips over the items of all benchmarks: what `gates.maxNegativeFlips` reads."""
    lost, items = _lost([benchmark["tasks"] for benchmark in benchmarks.values()])
    return exact_share(lost, items)


def share_of(groups: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Negative flips over all items of some groups of tasks, with their exact interval."""
    lost, items = _lost(groups)
    return {**_interval(exact_share(lost, items)), "items": items}


def _lost(groups: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[int, int]:
    tasks = [task for group in groups for task in group.values()]
    items = sum(task["items"] for task in tasks)
    return sum(round(task["flips"]["negative"]["mean"] * task["items"]) for task in tasks), items
