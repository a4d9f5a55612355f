"""The only module that knows lm-evaluation-harness: its tasks become plain items, and answers to them become marks.

Decides what is asked and what counts as right, as the harness has it; never runs a model and imports no torch. Pinned
behaviour: prompts are those of `lm_eval` itself (few-shot examples drawn with its seed 1234 in the order of items), but
an item is never among its own examples. A task file may name functions (`!function`): they are the user's own code.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, MissingInputError, Problem
from rewarm_api.snapshot import Benchmark, PromptForm
from rewarm_api.uri import is_task_file
from rewarm_trainer.claims import SCHEME, claim_path
from rewarm_trainer.items import Answer, Item, Mark, Request, Task, TaskForm

FEW_SHOT_SEED = 1234  # the harness's own default
PREFERRED = ("acc", "exact_match", "acc_norm")
"""Metrics that say right or wrong, the first that a task has."""
_OWN_FORM = PromptForm(
    name="", few_shot=None, description=None, doc_to_text=None, doc_to_choice=None, doc_to_target=None,
    target_delimiter=None,
)  # fmt: skip
_LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")


@cache
def load(benchmarks: tuple[Benchmark, ...], root: Path) -> dict[str, tuple[Task, ...]]:
    """The tasks of each benchmark, in every prompt form, with all their items. `root`: the manifest's folder.

    Raises ManifestError (64) for a task that does not exist or that cannot be judged item by item, MissingInputError
    (66) for a file or data that is not here, DataError (65) for a task that its own data does not fit.
    """
    _need_harness()
    with _quiet():
        return {
            each.name: tuple(_tasks_of(each, root, f"spec.evaluation.benchmarks[{number}]"))
            for number, each in enumerate(benchmarks)
        }


def version() -> str:
    from importlib.metadata import version as installed

    return installed("lm-eval")


def _need_harness() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingInputError(
            f"spec.evaluation.benchmarks: lm-evaluation-harness is not installed here ({error}); "
            "install it by `pip install 'rewarm[benchmarks]'`, or leave benchmarks out"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and its loaders tell a lot; what matters is in our errors."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _tasks_of(benchmark: Benchmark, root: Path, path: str) -> Iterator[Task]:
    forms, seen = benchmark.forms or (_OWN_FORM,), set[str]()
    for number, name in enumerate(benchmark.tasks):
        where = f"{path}.tasks[{number}]"
        built = [_build(name, _overrides(form, benchmark.few_shot), root, where) for form in forms]
        for leaf in range(len(built[0])):
            versions = [_OneForm(form.name, each[leaf], where) for form, each in zip(forms, built, strict=True)]
            if versions[0].task_name in seen:
                raise versions[0].refused("already in this benchmark", "each task once")
            seen.add(versions[0].task_name)
            yield Task(versions[0].task_name, versions[0].metric, tuple(each.prepared() for each in versions))


def _overrides(form: PromptForm, few_shot: int | None) -> dict[str, Any]:
    shots = few_shot if form.few_shot is None else form.few_shot
    asked = {"num_fewshot": shots, **form.model_dump(exclude={"name", "few_shot"})}
    return {key: value for key, value in asked.items() if value is not None}


def _build(name: str, overrides: Mapping[str, Any], root: Path, where: str) -> list[Any]:
    """The harness's own task objects behind a name or a file: several for a group or a tag."""
    from lm_eval.api.group import Group
    from lm_eval.tasks._factory import TaskFactory

    entry, registry, more = _entry_of_file(name, root, where) if is_task_file(name) else _entry_of_name(name, where)
    try:
        built = TaskFactory().build(entry, overrides={**more, **overrides}, registry=registry)
    except (FileNotFoundError, ConnectionError) as error:
        raise MissingInputError(
            f"{where}: the data of task {name} is neither here nor to be fetched ({_line(error)}); let this machine "
            "reach the Hugging Face hub, fill its cache (HF_HOME) where there is network, or give a task file with "
            "data_files"
        ) from error
    except Exception as error:
        raise DataError(
            f"{where}: task {name} cannot be built: {type(error).__name__}: {_line(error)}; "
            "correct its templates, splits and metrics"
        ) from error
    if isinstance(built, Group):
        return list(built.get_all_tasks())
    return built if isinstance(built, list) else [built]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _entry_of_name(name: str, where: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    index = _known_tasks()
    if name not in index:
        near = difflib.get_close_matches(name, index, n=3, cutoff=0.5)
        expected = f"a task of lm-evaluation-harness {version()}" + (f"; nearest: {', '.join(near)}" if near else "")
        raise ManifestError(Problem(where, name, expected, "correct the name, or give a task file (.yaml)"))
    return index[name], index, {}


@cache
def _known_tasks() -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    index: dict[str, Any] = TaskManager().task_index
    return index


def _entry_of_file(name: str, root: Path, where: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    from lm_eval.tasks._index import TaskIndex

    path = claim_path(name) if name.startswith(SCHEME) else root / name
    if not path.is_file():
        raise MissingInputError(f"{where}: no task file {path}; expected a YAML of lm-evaluation-harness there")
    try:
        entry = TaskIndex.entry_from_path(path)
        given = _settings(path)
    except Exception as error:  # a YAML reader with constructors of the harness: anything may come out
        raise DataError(f"{where}: {path} is no task: {type(error).__name__}: {_line(error)}") from error
    if entry is None:
        raise DataError(f"{where}: {path} is no task; expected `task: NAME` in it")
    registry = TaskIndex().build([path.parent]) if "group" in given else {}
    return entry, registry, _local_data(given, path.parent, root, where)


def _settings(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    found: dict[str, Any] = load_yaml(path, resolve_func=False)
    return found


def _local_data(given: Mapping[str, Any], folder: Path, root: Path, where: str) -> dict[str, Any]:
    """Data files of a task file, by full path: looked for beside it, then in the manifest's folder."""

    def found(name: str) -> str:
        if "://" in name or Path(name).is_absolute():
            return name
        places = [base / name for base in (folder, root)]
        for place in places:
            if any(place.parent.glob(place.name)) if "*" in place.name else place.exists():
                return str(place)
        raise MissingInputError(
            f"{where}: no data at {places[0]}, nor at {places[1]}; correct data_files, or put it there"
        )

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolved(each) for key, each in value.items()}
        if isinstance(value, list):
            return [resolved(each) for each in value]
        return found(str(value))

    settings = dict(given.get("dataset_kwargs") or {})
    local = {key: resolved(settings[key]) for key in ("data_files", "data_dir") if settings.get(key)}
    changes: dict[str, Any] = {"dataset_kwargs": {**settings, **local}} if local else {}
    source = given.get("dataset_path")
    if isinstance(source, str) and source not in _LOCAL_FORMATS and (folder / source).is_dir():
        changes["dataset_path"] = str(folder / source)
    return changes


class _OtherItems:
    """A sampler of few-shot examples that never shows an item to itself."""

    def __init__(self, sampler: Any, excludes: bool) -> None:
        self._sampler, self._excludes = sampler, excludes
        self.item: Any = None

    def sample(self, n: int, eval_doc: Any = None, **more: Any) -> Any:
        return self._sampler.sample(n=n, eval_doc=self.item if self._excludes else eval_doc, **more)

    def set_rnd(self, seed: int | None) -> None:
        self._sampler.set_rnd(seed)


class _OneForm:
    """One task of the harness in one prompt form."""

    def __init__(self, form: str, task: Any, where: str) -> None:
        from lm_eval.api.task import ConfigurableTask

        self._form, self._task, self._where = form, task, where
        self.task_name = str(task.task_name)
        if not isinstance(task, ConfigurableTask):
            raise self.refused("a Python class of an old form", "a task that a YAML describes")
        kind = task.OUTPUT_TYPE
        if kind not in ("multiple_choice", "loglikelihood", "generate_until"):
            raise self.refused(f"output_type {kind}", "right or wrong on each item: multiple_choice, loglikelihood or "
                                "generate_until")  # fmt: skip
        for attribute, what in (("UNSAFE_CODE", "runs code that a model wrote"), ("MULTIMODAL", "shows pictures")):
            if getattr(task, attribute, False):
                raise self.refused(what, "text and nothing that has to be run")
        if (task.config.generation_kwargs or {}).get("do_sample"):
            raise self.refused("do_sample: true", "greedy answers, the same each time")
        known = list(task.aggregation())
        self.metric = next((name for name in (*PREFERRED, *known) if name in known), "")

    def refused(self, found: str, expected: str) -> ManifestError:
        return ManifestError(Problem(self._where, f"{self.task_name}: {found}", expected, "take another task"))

    def prepared(self) -> TaskForm:
        """Every item with its requests, in the order of the data."""
        task = self._task
        sampler = None
        if hasattr(task, "sampler"):
            sampler = task.sampler = _OtherItems(task.sampler, _draws_from_items(task))
        task.set_fewshot_seed(FEW_SHOT_SEED)
        try:
            items = [self._item(number, doc, sampler) for number, doc in enumerate(task.task_docs)]
        except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{self._where}: task {self.task_name}{self._words()} cannot ask its items: {type(error).__name__}: "
                f"{_line(error)}; correct its templates, or ask for fewer examples (fewShot)"
            ) from error
        if not items:
            raise DataError(f"{self._where}: task {self.task_name} has no items")
        return TaskForm(self._form, task.config.num_fewshot or 0, tuple(items), self._mark)

    def _words(self) -> str:
        return f" in the form {self._form}" if self._form else ""

    def _item(self, number: int, doc: Any, sampler: _OtherItems | None) -> Item:
        task = self._task
        if sampler:
            sampler.item = doc
        context = task.fewshot_context(
            doc, num_fewshot=task.config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc)
        )
        made = task.construct_requests(
            doc=doc, ctx=context, metadata=(self.task_name, number, 1), apply_chat_template=False, chat_template=None
        )
        instances = made if isinstance(made, list) else [made]
        text = json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Item(number, digest, tuple(_request(instance) for instance in instances), (doc, instances))

    def _mark(self, item: Item, answers: Sequence[Answer]) -> Mark:
        """What the harness makes of a model's answers to one item."""
        doc, instances = item.source
        for instance, answer in zip(instances, answers, strict=True):
            instance.resps = [answer.text if answer.text is not None else (answer.nats, answer.is_greedy)]
            instance.filtered_resps = {}
        chosen = self._task._filters[0]
        chosen.apply(instances)
        results = self._task.process_results(doc, [instance.filtered_resps[chosen.name] for instance in instances])
        score = results.get(self.metric)
        if score not in (0, 1, True, False):
            raise ManifestError(
                Problem(self._where, f"{self.task_name}: {self.metric} {score!r} on item {item.number}",
                        "a metric that is 0 or 1 on each item, such as acc or exact_match", "take another task")
            )  # fmt: skip
        if answers[0].text is not None:
            return Mark(bool(score), None, (), answers[0].text[:500])
        if self._task.OUTPUT_TYPE == "loglikelihood":
            return Mark(bool(score), (0,), (answers[0].nats,), str(int(answers[0].is_greedy)))
        choices = self._task.doc_to_choice(doc)
        nats = tuple(answer.nats for answer in answers[: len(choices)])
        return Mark(bool(score), self._right(doc, choices), nats, str(max(range(len(nats)), key=nats.__getitem__)))

    def _right(self, doc: Any, choices: Sequence[str]) -> tuple[int, ...] | None:
        """The numbers of the right choices; None where the data names one that is not there."""
        gold = self._task.doc_to_text(doc) if self._task.multiple_input else self._task.doc_to_target(doc)
        found = [choices.index(each) if each in choices else -1 if isinstance(each, str) else int(each)
                 for each in (gold if isinstance(gold, list) else [gold])]  # fmt: skip
        right = tuple(each for each in found if 0 <= each < len(choices))
        return right or None


def _draws_from_items(task: Any) -> bool:
    """Whether few-shot examples come from the very items that are judged."""
    config, own = task.config, task.fewshot_cfg
    judged = config.test_split or config.validation_split
    if own.split is not None:
        return bool(own.split == judged)
    pool = config.training_split or config.validation_split or config.test_split
    return own.samples is None and pool == judged


def _request(instance: Any) -> Request:
    arguments = instance.args
    if instance.request_type == "loglikelihood":
        return Request(str(arguments[0]), str(arguments[1]))
    settings = dict(arguments[1])
    until = settings.get("until") or []
    limit = settings.get("max_gen_toks", settings.get("max_new_tokens", 256))
    return Request(str(arguments[0]), None, tuple([until] if isinstance(until, str) else until), int(limit))
