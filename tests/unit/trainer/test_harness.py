"""Tasks of lm-evaluation-harness as plain items: what is asked, what is right, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewarm_api.errors import DataError, ManifestError, MissingInputError
from rewarm_api.snapshot import Benchmark, PromptForm
from rewarm_trainer import harness
from rewarm_trainer.items import Answer, Task

pytest.importorskip("lm_eval")

FORM = dict.fromkeys(("few_shot", "description", "doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter"))
CHOICE = {
    "task": "colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
}
ROWS = [
    {"question": f"Thing {n} is", "choices": ["red", "green", "blue"], "answer": n % 3, "word": f"w{n}"}
    for n in range(9)
]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(folder: Path, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {key: value for key, value in {**CHOICE, **changes}.items() if value is not None}
    path = folder / "colours.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def benchmark(*tasks: str, few_shot: int | None = None, forms: tuple[PromptForm, ...] = ()) -> Benchmark:
    return Benchmark(name="own", tasks=tasks, few_shot=few_shot, forms=forms, form_selection="20%")


def load(root: Path, *tasks: str, **options: Any) -> tuple[Task, ...]:
    return harness.load((benchmark(*(tasks or ("tasks/colours.yaml",)), **options),), root)["own"]


def test_a_task_file_of_ones_own_becomes_items(tmp_path: Path) -> None:
    write(tmp_path / "tasks")
    (task,) = load(tmp_path)
    (form,) = task.forms
    assert (task.name, task.metric, form.name, form.few_shot) == ("colours", "acc", "", 0)
    assert len(form.items) == 9
    item = form.items[4]
    assert [(request.context, request.continuation) for request in item.requests] == [
        ("Thing 4 is", " red"), ("Thing 4 is", " green"), ("Thing 4 is", " blue")
    ]  # fmt: skip
    right = form.mark(item, [Answer(-2.0), Answer(-1.0), Answer(-3.0)])
    assert (right.is_right, right.right, right.nats, right.answer) == (True, (1,), (-2.0, -1.0, -3.0), "1")
    assert not form.mark(item, [Answer(-1.0), Answer(-2.0), Answer(-3.0)]).is_right
    assert len({each.digest for each in form.items}) == 9


def test_the_data_may_lie_in_the_folder_of_the_manifest(tmp_path: Path) -> None:
    write(tmp_path / "tasks")
    (tmp_path / "tasks" / "colours.jsonl").rename(tmp_path / "colours.jsonl")
    assert len(load(tmp_path)[0].forms[0].items) == 9


def test_an_item_is_never_its_own_example(tmp_path: Path) -> None:
    write(tmp_path / "tasks")
    (task,) = load(tmp_path, few_shot=8)
    for item in task.forms[0].items:
        *examples, asked = item.requests[0].context.split("\n\n")
        own = asked.removesuffix(" is")
        assert len(examples) == 8
        assert not [example for example in examples if example.startswith(own)]
    again = harness.load.__wrapped__((benchmark("tasks/colours.yaml", few_shot=8),), tmp_path)["own"]
    assert again[0].digests == task.digests, "the same examples every time"


def test_more_examples_than_there_are_items_is_65(tmp_path: Path) -> None:
    write(tmp_path / "tasks")
    with pytest.raises(DataError, match="ask for fewer examples"):
        load(tmp_path, few_shot=9)


def test_forms_ask_the_same_items_in_their_own_way(tmp_path: Path) -> None:
    write(tmp_path / "tasks")
    quiz = PromptForm(**{**FORM, "name": "quiz", "doc_to_text": "Q: {{question}}?", "target_delimiter": "\nA: "})
    letters = PromptForm(
        **{**FORM, "name": "letters", "doc_to_choice": "['A', 'B', 'C']", "description": "Choose. ", "few_shot": 0}
    )
    (task,) = load(tmp_path, few_shot=1, forms=(quiz, letters))
    assert [form.few_shot for form in task.forms] == [1, 0]
    one, two = (form.items[3] for form in task.forms)
    assert one.digest == two.digest
    assert one.requests[0].context.endswith("\n\nQ: Thing 3 is?")
    assert one.requests[0].continuation == "\nA: red"
    assert "\nA: " in one.requests[0].context
    assert [(request.context, request.continuation) for request in two.requests] == [
        ("Choose. Thing 3 is", " A"), ("Choose. Thing 3 is", " B"), ("Choose. Thing 3 is", " C")
    ]  # fmt: skip


def test_a_written_answer_is_marked_by_the_harness(tmp_path: Path) -> None:
    write(
        tmp_path / "tasks",
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="{{word}}",
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
        generation_kwargs={"until": ["\n"], "max_gen_toks": 5},
    )
    (task,) = load(tmp_path)
    item = task.forms[0].items[2]
    (request,) = item.requests
    assert (request.continuation, request.until, request.limit) == (None, ("\n",), 5)
    assert task.forms[0].mark(item, [Answer(text="W2")]).is_right
    assert not task.forms[0].mark(item, [Answer(text="w3")]).is_right


def test_what_is_not_there_is_66(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"benchmarks\[0\].tasks\[0\]: no task file"):
        load(tmp_path)
    write(tmp_path / "tasks")
    (tmp_path / "tasks" / "colours.jsonl").unlink()
    with pytest.raises(MissingInputError, match="no data at"):
        load(tmp_path)


def test_data_that_has_to_be_fetched_is_66_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write(tmp_path / "tasks", dataset_path="nobody/nothing-here", dataset_kwargs=None)
    with pytest.raises(MissingInputError) as found:
        load(tmp_path)
    assert "the data of task tasks/colours.yaml is neither here nor to be fetched" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"output_type": "loglikelihood_rolling", "doc_to_choice": None, "doc_to_target": "{{word}}"},
            "right or wrong",
        ),
        (
            {"output_type": "generate_until", "doc_to_choice": None, "generation_kwargs": {"do_sample": True}},
            "do_sample",
        ),
    ],
)
def test_what_cannot_be_judged_by_item_is_64(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write(tmp_path / "tasks", **changes)
    with pytest.raises(ManifestError, match=words) as found:
        load(tmp_path)
    assert found.value.problems[0].field == "spec.evaluation.benchmarks[0].tasks[0]"


@pytest.mark.parametrize(
    "changes", [{"doc_to_text": "{{question"}, {"test_split": "nowhere"}, {"doc_to_choice": "{{nothing}}"}]
)
def test_a_task_that_its_data_does_not_fit_is_65(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path / "tasks", **changes)
    with pytest.raises(DataError, match="colours") as found:
        load(tmp_path)
    assert "\n" not in str(found.value)


def test_a_file_that_is_no_task_is_65(tmp_path: Path) -> None:
    write(tmp_path / "tasks")
    for text in ("[1, 2]", "metadata: {version: 1}", "task: [", ""):
        (tmp_path / "tasks" / "colours.yaml").write_text(text)
        with pytest.raises(DataError, match="is no task"):
            harness.load.__wrapped__((benchmark("tasks/colours.yaml"),), tmp_path)


@pytest.mark.slow
def test_a_task_that_does_not_exist_is_64_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as found:
        load(tmp_path, "hellaswagg")
    (problem,) = found.value.problems
    assert (problem.field, problem.found) == ("spec.evaluation.benchmarks[0].tasks[0]", "hellaswagg")
    assert "nearest: hellaswag" in problem.expected


def test_the_example_of_the_documentation_is_64_items_with_one_right_answer_each() -> None:
    examples = Path(__file__).parents[3] / "examples"
    (task,) = load(examples, "tasks/python_words.yaml")
    items = task.forms[0].items
    assert len(items) == 64
    right = [task.forms[0].mark(item, [Answer(-float(n)) for n in range(len(item.requests))]).right for item in items]
    assert {len(each) for each in right} == {1}
    assert {each[0] for each in right} == {0, 1, 2, 3}, "the right answer is not always at one place"
