"""Benchmarks of two runs, or of a run and a model folder, item by item: what `rewarm compare` says of tasks.

A run's own answers lie in its work folder; a model folder is asked the run's questions, by the code of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError
from rewarm_api.pins import Pins
from rewarm_trainer.task_answers import TaskAnswers, benchmark_json, common, judged
from rewarm_trainer.workdir import WorkFolder, read_snapshot


def compare_benchmarks(first: Path, second: Path, reference: Path) -> dict[str, Any]:
    """Every task that both have answers to, over the items that both were judged on; `reference` is the run of the two
    that knows the tasks. Empty without benchmarks."""
    asked = read_snapshot(WorkFolder(reference)).evaluation.benchmarks
    if not asked:
        return {}
    one, two = (
        _final(path) if WorkFolder(path).snapshot.exists() else _ask(path, reference) for path in (first, second)
    )
    result = {}
    for name in sorted(one.keys() & two.keys()):
        tasks = {task: _pair(one[name][task], two[name][task]) for task in one[name] if task in two[name]}
        kept = {task: line for task, line in tasks.items() if line}
        if kept:
            result[name] = benchmark_json(kept)
    return result


def _pair(one: TaskAnswers, two: TaskAnswers) -> dict[str, Any] | None:
    if one.metric != two.metric:
        return None
    left, right = common(one, two)
    if not left.marks:
        return None
    line = judged(left, right)
    return {**line, "first": line.pop("baseline"), "second": line.pop("final")}


def _final(path: Path) -> dict[str, dict[str, TaskAnswers]]:
    """The candidate's answers of a finished run, by benchmark and task."""
    from rewarm_trainer.benchmarks import read_answers

    work = WorkFolder(path)
    names = [benchmark.name for benchmark in read_snapshot(work).evaluation.benchmarks]
    return {name: read_answers(work.state / "benchmarks" / "final" / f"{name}.json") for name in names}


def _ask(folder: Path, reference: Path) -> dict[str, dict[str, TaskAnswers]]:
    """A model folder asked what a run was asked (its tokenizer has been compared by then)."""
    import torch

    from rewarm_trainer import harness
    from rewarm_trainer.answering import Answerer
    from rewarm_trainer.benchmarks import Benchmarks
    from rewarm_trainer.checkpoint import manifest_root
    from rewarm_trainer.compare import scorer_of
    from rewarm_trainer.corpus.tokenizer import TokenizerHandle

    work = WorkFolder(reference)
    snapshot, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
    asked = snapshot.evaluation.benchmarks
    tasks = harness.load(asked, manifest_root(work))
    known = _final(reference)
    for name, own in tasks.items():
        changed = [task.name for task in own if dict(known[name][task.name].asked) != task.digests]
        if changed:
            raise DataError(f"{name}: {', '.join(changed)} ask something else than in {reference}; restore their data")
    tokenizer = TokenizerHandle.load(work.tokenizer, snapshot.training.document_start)
    benchmarks = Benchmarks(
        asked,
        tasks,
        Answerer(scorer_of(folder, snapshot, pins), tokenizer),
        harness=harness.version(),
        export_type=torch.float32,
        state=work.state,
        report=lambda *_: None,
    )
    return benchmarks.answers()
