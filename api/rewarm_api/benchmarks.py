"""Benchmarks of a run: tasks of lm-evaluation-harness, scored before the first update and on the exported weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, Strict

from rewarm_api.errors import Problem
from rewarm_api.fields import Integer, Name, Percent, Spec, Text
from rewarm_api.uri import CLAIM_PATTERN, is_task_file, scheme_of

Task = Annotated[str, Strict(), Field(min_length=1, max_length=512)]
Shots = Annotated[Integer, Field(ge=0, le=64)]
Template = Annotated[Text, Field(min_length=1, max_length=8192)]


class PromptForm(Spec):
    """One way to ask the same question. What it leaves out stays as the task has it."""

    name: Name
    """Name of the form, unique within its benchmark."""
    few_shot: Shots | None = None
    """Solved examples before each item. Default: the benchmark's."""
    description: Template | None = None
    """Text before everything else."""
    doc_to_text: Template | None = None
    """Template of the question (Jinja over the item's fields), as in the harness."""
    doc_to_choice: Template | None = None
    """Template of the list of answers."""
    doc_to_target: Template | None = None
    """Template of the right answer, or of its number among the choices."""
    target_delimiter: Annotated[Text, Field(max_length=64)] | None = None
    """Text between question and answer."""


class Benchmark(Spec):
    """Tasks that are scored together and reported one by one."""

    name: Name
    """Name of the benchmark."""
    tasks: Annotated[list[Task], Field(min_length=1, max_length=64)]
    """Names of the harness (a task, a group or a tag), or task files of one's own (.yaml), relative to the manifest's
    folder; on a cluster claim://NAME/path."""
    few_shot: Shots | None = None
    """Solved examples before each item. Default: the task's own number."""
    forms: Annotated[list[PromptForm], Field(max_length=16)] = Field(default_factory=list)
    """Prompt forms. With two or more, each model gets the one that suits it, chosen on items that are then not judged.
    Default: the task's own form."""
    form_selection: Percent | None = None
    """Share of each task's items that choose the form. Default: 20%; only with two or more forms."""


FORM_SELECTION = "20%"
_OVERRIDES = ("few_shot", "description", "doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter")


def benchmark_problems(spec: Any, local: bool | None) -> Iterator[Problem]:
    """Problems of `evaluation.benchmarks` and of the gate that reads it. Broken fields (None) are passed over."""
    if spec.evaluation is None or spec.evaluation.benchmarks is None:
        return
    path, given = "spec.evaluation.benchmarks", spec.evaluation.benchmarks
    entries = [(f"{path}[{index}]", item) for index, item in enumerate(given) if item is not None]
    yield from _repeated(((f"{where}.name", item.name) for where, item in entries), "a name that no other one has")
    for where, item in entries:
        yield from _task_problems(f"{where}.tasks", item.tasks or [], local)
        yield from _form_problems(where, item)
    if spec.gates is not None and spec.gates.max_negative_flips is not None and not given:
        yield Problem(
            "spec.gates.maxNegativeFlips",
            f"{spec.gates.max_negative_flips:g} without benchmarks",
            "benchmarks, whose items it counts",
            "add evaluation.benchmarks, or remove maxNegativeFlips",
        )


def _repeated(entries: Iterator[tuple[str, str | None]], expected: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for path, name in entries:
        if name is not None and name in seen:
            yield Problem(path, f"{name}, which {seen[name]} has", expected, "rename or remove one of them")
        elif name is not None:
            seen[name] = path


def _task_problems(path: str, tasks: list[str | None], local: bool | None) -> Iterator[Problem]:
    entries = [(f"{path}[{index}]", task) for index, task in enumerate(tasks)]
    yield from _repeated(iter(entries), "a task that is not listed yet")
    for where, task in entries:
        if task is None:
            continue
        scheme = scheme_of(task)
        if scheme and (scheme != "claim" or not is_task_file(task)):
            expected = "the name of a task, a .yaml file or claim://NAME/path.yaml"
            yield Problem(where, task, expected, "name a task, or copy its file to one of these")
        elif scheme and local:
            yield Problem(where, task, "a path: this machine has no claims", "give the path of the task's file")
        elif scheme and not CLAIM_PATTERN.fullmatch(task):
            yield Problem(where, task, "claim://NAME/path.yaml", "name the claim and a path inside it")
        elif not scheme and is_task_file(task) and local is False:
            expected = "claim://NAME/path.yaml: a cluster cannot read this machine's files"
            yield Problem(where, task, expected, "put the task and its data on a claim")


def _form_problems(path: str, benchmark: Any) -> Iterator[Problem]:
    forms = [(f"{path}.forms[{index}]", form) for index, form in enumerate(benchmark.forms or [])]
    names = ((f"{where}.name", form.name) for where, form in forms if form is not None)
    yield from _repeated(names, "a name that no other form of this benchmark has")
    if benchmark.form_selection is not None and len(forms) < 2:
        yield Problem(
            f"{path}.formSelection",
            f"{benchmark.form_selection} with {len(forms) or 'no'} form{'s' if not forms else ''}",
            "two or more forms to choose among",
            "add forms, or remove formSelection",
        )
    if benchmark.form_selection is not None and not 0 < _percent(benchmark.form_selection) < 100:
        yield Problem(
            f"{path}.formSelection", benchmark.form_selection, "more than 0% and less than 100%", "use 20%, for example"
        )
    seen: dict[tuple[Any, ...], str] = {}
    for where, form in forms:
        if form is None or form.name is None:
            continue
        asked = tuple(getattr(form, name) for name in _OVERRIDES)
        if asked in seen:
            yield Problem(where, f"{form.name}, which asks as {seen[asked]} does", "forms that differ", "remove one")
        seen.setdefault(asked, form.name)


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))
