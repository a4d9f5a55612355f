"""Benchmarks of one run: the base before the first update, the exported weights at the end, by the same code.

    tasks (harness.py) -> requests -> answers (answering.py) -> marks -> task_answers.py -> state/benchmarks/, look

Each model is asked in the prompt form that suits it, chosen on items that are not judged. Decides nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewarm_api.errors import DataError
from rewarm_api.frozen import digest_of
from rewarm_api.snapshot import Benchmark
from rewarm_trainer.answering import Answerer
from rewarm_trainer.files import write_json
from rewarm_trainer.items import Mark, Task, TaskForm, best_form, selection_of
from rewarm_trainer.looks import from_rank_0, rounded_to
from rewarm_trainer.task_answers import TaskAnswers, benchmark_json, judged

CODE_VERSION = 2  # part of the base's cache key: raise it when an answer could change

Answers = dict[str, dict[str, TaskAnswers]]
"""By benchmark, then by task."""


class Benchmarks:
    """All benchmarks of a run. Every rank answers its share, rank 0 judges and writes, and all get the same line."""

    def __init__(
        self,
        asked: Sequence[Benchmark],
        tasks: Mapping[str, Sequence[Task]],
        answerer: Answerer,
        *,
        harness: str,
        export_type: torch.dtype,
        state: Path,
        report: Callable[[str, int, int], None],
    ) -> None:
        """`tasks`: by benchmark, as harness.load gives them. `harness`: its version."""
        self._asked = {benchmark.name: benchmark for benchmark in asked}
        self._tasks = tasks
        self._answerer, self._harness, self._export_type = answerer, harness, export_type
        self._state, self._report = state / "benchmarks", report
        self._base: Answers = {}
        self._serving: Answers = {}
        self._check_ranks()

    @property
    def _rank(self) -> int:
        return self._answerer.scorer.rank

    def _check_ranks(self) -> None:
        """Ranks that asked different things would wait for each other for ever."""
        own = {name: [task.digests for task in tasks] for name, tasks in self._tasks.items()}
        if own != from_rank_0(own, self._answerer.scorer.world):
            raise DataError("spec.evaluation.benchmarks: this machine has other task data than the first; use the same")

    def baseline(self, cache: Path, tokenizer: str, weights: str) -> dict[str, Any]:
        """Ask the untouched base before the first update; found again by digest, here or in the user's cache."""
        began = time.monotonic()
        for name, tasks in self._tasks.items():
            self._base[name] = {task.name: self._base_answers(name, task, cache, tokenizer, weights) for task in tasks}
            self._write("base", name, self._base[name])
        summaries = {
            name: {"tasks": {task: own.summary() | {"items": len(own.marks)} for task, own in tasks.items()}}
            for name, tasks in self._base.items()
        }
        return from_rank_0({"benchmarks": summaries, "seconds": time.monotonic() - began}, self._answerer.scorer.world)

    def _base_answers(self, name: str, task: Task, cache: Path, tokenizer: str, weights: str) -> TaskAnswers:
        scorer = self._answerer.scorer
        how = [scorer.precision, self._answerer.length, self._asked[name].form_selection]
        key = digest_of([weights, tokenizer, task.name, task.metric, task.digests, *how])
        version = f"v{CODE_VERSION}-lm-eval-{self._harness}-torch-{torch.__version__}"
        cached = cache / "benchmarks" / version / f"{key.removeprefix('sha256:')}.json"
        found = from_rank_0(_read(cached) if self._rank == 0 else None, scorer.world)
        if found:
            return found
        answers = self._answer(name, task)
        if self._rank == 0:
            write_json(cached, answers.to_json())
        return answers

    def resume(self) -> None:
        """Take the base's answers from the work folder: after an update there is no untouched base to ask."""
        for name, tasks in self._tasks.items():
            path = self._path("base", name)
            self._base[name] = read_answers(path)
            for task in tasks:
                known = self._base[name].get(task.name)
                if known is None or dict(known.asked) != task.digests:
                    raise DataError(
                        f"spec.evaluation.benchmarks: task {task.name} of {name} asks something else than when this "
                        f"run began ({path}); restore its file, its data and lm-eval {self._harness_of(path)}"
                    )

    def take_serving(self) -> None:
        """What the serving version answered, where there is one: the final answers are compared with it too."""
        if (self._state.parent / "serving.json").exists():
            paths = {name: self._path("serving", name) for name in self._tasks}
            self._serving = {name: read_answers(path) for name, path in paths.items() if path.exists()}

    def asking(self, answerer: Answerer) -> Benchmarks:
        """The same questions to another model."""
        return Benchmarks(
            list(self._asked.values()),
            self._tasks,
            answerer,
            harness=self._harness,
            export_type=self._export_type,
            state=self._state.parent,
            report=self._report,
        )

    def keep(self, part: str) -> None:
        """Ask the model as it stands, and keep its answers under `part`."""
        for name, answers in self.answers().items():
            self._write(part, name, answers)

    @staticmethod
    def _harness_of(path: Path) -> str:
        return str(json.loads(path.read_text())["harness"])

    def final(self, model: nn.Module) -> dict[str, Any]:
        """Ask the weights as they will be exported, and judge them against the base item by item."""
        with rounded_to(model, self._export_type):
            final = self.answers()
        for name, answers in final.items():
            self._write("final", name, answers)
        line = {}
        if self._rank == 0:
            serving = self._serving
            line = {name: judged_benchmark(self._base[name], own, serving.get(name, {})) for name, own in final.items()}
        return from_rank_0(line, self._answerer.scorer.world)

    def answers(self) -> Answers:
        """What the model answers as it stands."""
        return {name: {task.name: self._answer(name, task) for task in tasks} for name, tasks in self._tasks.items()}

    def _answer(self, name: str, task: Task) -> TaskAnswers:
        """One task, in the form that suits the model."""
        try:
            apart = selection_of(task, self._asked[name].form_selection)
        except ValueError as error:
            raise DataError(f"spec.evaluation.benchmarks: task {task.name} of {name}: {error}; add items") from error
        chosen, tried = task.forms[0], list[Sequence[Mark]]()
        if apart:
            tried = [self._marks(name, task, form, lambda number: number in apart)[0] for form in task.forms]
            chosen = task.forms[best_form(tried)]
        marks, cut = self._marks(name, task, chosen, lambda number: number not in apart)
        kept = [item for item in chosen.items if item.number not in apart]
        accuracies = {
            form.name: sum(mark.is_right for mark in own) / len(own)
            for form, own in zip(task.forms, tried, strict=False)
        }
        return TaskAnswers(
            name=task.name,
            metric=task.metric,
            asked=task.digests,
            form=chosen.name,
            few_shot=chosen.few_shot,
            numbers=tuple(item.number for item in kept),
            digests=tuple(item.digest for item in kept),
            marks=tuple(marks),
            chosen_on=len(apart),
            form_accuracies=accuracies or None,
            cut=cut,
        )

    def _marks(self, name: str, task: Task, form: TaskForm, wanted: Callable[[int], bool]) -> tuple[list[Mark], int]:
        items = [item for item in form.items if wanted(item.number)]
        requests = [request for item in items for request in item.requests]
        answers, cut = self._answerer.answers(
            requests, lambda done, total: self._report(f"{name}/{task.name}", done, total)
        )
        marks, place = [], 0
        for item in items:
            own = answers[place : place + len(item.requests)]
            marks.append(form.mark(item, own))
            place += len(item.requests)
        return marks, cut

    def _path(self, part: str, name: str) -> Path:
        return self._state / part / f"{name}.json"

    def _write(self, part: str, name: str, answers: Mapping[str, TaskAnswers]) -> None:
        if self._rank == 0:
            tasks = [each.to_json() for each in answers.values()]
            write_json(self._path(part, name), {"version": 1, "harness": self._harness, "tasks": tasks})


def judged_benchmark(
    base: Mapping[str, TaskAnswers], candidate: Mapping[str, TaskAnswers], serving: Mapping[str, TaskAnswers]
) -> dict[str, Any]:
    """Every task of one benchmark, candidate against base (DataError when they judged other items), and where the
    serving version answered too, against that."""
    try:
        lines = {task: judged(base[task], own) for task, own in candidate.items()}
        for task, own in candidate.items():
            if task in serving:
                lines[task]["serving"] = judged(serving[task], own)
        return benchmark_json(lines)
    except ValueError as error:
        raise DataError(f"spec.evaluation.benchmarks: {error}") from error


def read_answers(path: Path) -> dict[str, TaskAnswers]:
    """What one model answered to a benchmark (DataError when the file is missing or broken)."""
    try:
        tasks = [TaskAnswers.from_json(task) for task in json.loads(path.read_text())["tasks"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no answers of a benchmark ({error}); start over in a new work folder") from error
    return {task.name: task for task in tasks}


def _read(path: Path) -> TaskAnswers | None:
    """Answers that were written whole; a broken cache entry is asked again."""
    try:
        return TaskAnswers.from_json(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
