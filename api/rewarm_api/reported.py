"""What a trainer tells the operator: while it runs (`Report`, by POST) and when it ends (`Termination`, 4 KB at most).

Everything here comes from pods, so it is read as if written by an enemy: bounded, finite, and wrong in one clear line.
A field that this version does not know is passed over: images and operators are not upgraded together.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from rewarm_api.fields import WORD_PATTERN, Digest, Integer, Name, Number, Spec, Text
from rewarm_api.kubeflow import report_of
from rewarm_api.messages import found_text, one_line
from rewarm_api.reading import Reader, without_nulls
from rewarm_api.shape import Shape, shapes
from rewarm_api.status import (
    Address,
    Cause,
    Checkpoint,
    Count,
    ForgettingSummary,
    Gain,
    GateResult,
    Line,
    Observation,
    Phase,
    Progress,
    Promotion,
    ReplayShare,
    SetEvaluation,
    ShortText,
)
from rewarm_api.study_status import StudyResult

MAXIMUM_BODY = 128 * 1024
"""Bytes of a progress POST: about twice the largest Report that fits the bounds below in a real run."""
MAXIMUM_MESSAGE = 4000
"""Bytes of a termination message. The kubelet cuts at 4096, and 12 KB over all containers of a pod."""
_MOST_DIGITS = 30

Outcome = Literal[""] | Literal["Succeeded"] | Cause
_Model = TypeVar("_Model", bound=Spec)


class ReportError(ValueError):
    """A body that is no report; the message is one line for the pod's log."""


class Made(Observation):
    """A part that only travels, and is not part of the status."""

    model_config = ConfigDict(extra="ignore")


class TrainedSteps(Made):
    """What one attempt did."""

    number: Annotated[Integer, Field(ge=1, le=2**53 - 1)]
    """Of the attempt, from 1."""
    first_step: Count | None = None
    """First update."""
    last_step: Count | None = None
    """Last update."""
    tokens_recomputed: Count = 0
    """Tokens trained again since the checkpoint it resumed from."""


class Decided(Made):
    """Something that the trainer changed by itself, for example RaiseReplay."""

    what: Annotated[Text, Field(pattern=WORD_PATTERN, max_length=64)]
    """In one word, fit for the reason of an Event."""
    why: Line = ""
    """In a sentence."""
    tokens: Count = 0
    """Tokens trained by then."""


class Report(Made):
    """What rank 0 knows of the run. Every field may be absent; what is absent was not said, and stays as it was."""

    phase: Phase | None = None
    """What it is doing, and when that counts as hung."""
    progress: Progress | None = None
    """How far training has come."""
    learning_rate: Annotated[Number, Field(ge=0)] | None = None
    """Of the last update."""
    evaluation: Annotated[list[SetEvaluation], Field(max_length=128)] = Field(default_factory=list)
    """Newest look at each set."""
    forgetting: ForgettingSummary | None = None
    """Over Retained sets."""
    gain: Gain | None = None
    """Over New sets."""
    gates: Annotated[list[GateResult], Field(max_length=16)] = Field(default_factory=list)
    """Once they were judged."""
    promotion: Promotion | None = None
    """Whether the candidate may have the alias: the operator is the one that moves it."""
    replay: ReplayShare | None = None
    """Share of training rows drawn from replay."""
    checkpoint: Checkpoint | None = None
    """The newest committed one."""
    attempt: TrainedSteps | None = None
    """What this attempt did."""
    model_version: ShortText = ""
    """Version that the trainer registered."""
    outcome: Outcome = ""
    """As report.json has it; empty while the run goes on."""
    warnings: Annotated[list[Line], Field(max_length=16)] = Field(default_factory=list)
    """What a person should know, for example a damaged checkpoint that was passed over."""
    decisions: Annotated[list[Decided], Field(max_length=16)] = Field(default_factory=list)
    """What the trainer changed by itself, newest last."""

    def to_json(self) -> dict[str, Any]:
        """The object that travels: only what was said."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


class SourceCount(Made):
    """What preparation counted in one source."""

    documents: Count = 0
    """Documents."""
    tokens: Count = 0
    """Tokens."""
    rows: Count = 0
    """Training rows."""


class PinsSummary(Made):
    """The pins that preparation wrote, in short."""

    uri: Address = ""
    """Where pins.json lies."""
    digest: Digest | None = None
    """Experiment digest: snapshot and pins."""
    tokens: Count = 0
    """Tokens of the plan."""
    steps: Count = 0
    """Updates of the plan."""
    sources: Annotated[dict[Name, SourceCount], Field(max_length=128)] = Field(default_factory=dict)
    """Counts by source."""


class Termination(Made):
    """Why a trainer's container ended: the text of /dev/termination-log."""

    version: Literal[1] = 1
    """Of this form."""
    outcome: Outcome = ""
    """As report.json has it."""
    message: Line = ""
    """Why, in one line."""
    exit_code: Annotated[Integer, Field(ge=0, le=255)] = 0
    """Of the process."""
    report: Report | None = None
    """What rank 0 knew last."""
    pins: PinsSummary | None = None
    """What preparation pinned."""
    study: StudyResult | None = None
    """What the fit of a study found."""
    tags: Annotated[
        dict[Annotated[Text, Field(max_length=128)], Annotated[Text, Field(max_length=512)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """Lineage for the model registry."""

    def to_message(self, limit: int = MAXIMUM_MESSAGE) -> str:
        """JSON of at most `limit` bytes (at least 128), whatever this holds.

        The least needed goes first, until it fits: tags; decisions; warnings; the intervals of the evaluation; the
        losses of its sets; its sets; the counts of sources; the message beyond 200 characters; replay, phase and
        progress; gates and promotion; the rest of the report but its checkpoint and attempt; the checkpoint; the pins;
        of a study the fits of its sets, its warnings, then answers, those of the largest budgets last; the message.
        Outcome, exit code and a study's artefact always stay.
        """
        value = {"version": 1} | self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        text = _compact(value)
        for drop in _DROPS:
            if len(text.encode()) <= limit:
                break
            drop(value)
            text = _compact(value)
        return text

    @classmethod
    def parse(cls, text: str) -> Termination | None:
        """None on anything unreadable: free text, a cut message, another version."""
        try:
            document = _load(text)
            return _read(cls, document, "") if isinstance(document, dict) and "version" in document else None
        except ReportError:
            return None


def read_report(body: bytes) -> Report:
    """The report in the body of a progress POST: key `rewarm`, or a plain Kubeflow `trainerStatus`, else ReportError.

    Where both stand, `rewarm` is read and `trainerStatus` is for others.
    """
    if len(body) > MAXIMUM_BODY:
        raise ReportError(f"body: found {len(body)} bytes, expected at most {MAXIMUM_BODY}; send less")
    document = _load(body)
    if not isinstance(document, dict):
        raise ReportError(f"body: found {found_text(document)}, expected a JSON object; send trainerStatus or rewarm")
    if document.get("rewarm") is not None:
        return _read(Report, document["rewarm"], "rewarm")
    if document.get("trainerStatus") is not None:
        return _read(Report, report_of(document["trainerStatus"], ReportError), "trainerStatus")
    raise ReportError("body: found neither trainerStatus nor rewarm, expected one of them; add it")


def _load(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_int=_integer, parse_constant=_not_json)
    except RecursionError:
        raise ReportError("body: found JSON that is nested too deep, expected an object of a few levels") from None
    except ValueError as error:
        raise ReportError(f"body: found no JSON ({one_line(str(error), 200)}), expected a JSON object") from None


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("a number with too many digits")
    return int(digits)


def _not_json(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _read(model: type[_Model], document: Any, path: str) -> _Model:
    """The document as `model`. Raises ReportError, in the words that manifests get, for the first thing wrong."""
    if not isinstance(document, dict):
        raise ReportError(f"{path or 'body'}: found {found_text(document)}, expected a mapping")
    known = _known(model, without_nulls(document))
    try:
        return model.model_validate(known)
    except ValidationError as error:
        reader = Reader()
        reader.model(model, known, path)
        first = str(reader.problems[0]) if reader.problems else _plain(path, error)
        raise ReportError(one_line(first, 400)) from None


def _plain(path: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in (path, *first["loc"]) if step != "")
    return f"{place}: {first['msg']}"


def _known(model: type[Spec], document: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that this version does not know."""
    fields = shapes(model)
    return {key: _known_value(fields[key], value) for key, value in document.items() if key in fields}


def _known_value(shape: Shape, value: Any) -> Any:
    if shape.model is not None and isinstance(value, dict):
        return _known(shape.model, value)
    if shape.items is not None and isinstance(value, list):
        return [_known_value(shape.items, item) for item in value]
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _drop(value: dict[str, Any], part: str, *names: str) -> None:
    for name in names:
        value.get(part, {}).pop(name, None)


def _drop_of_sets(value: dict[str, Any], *names: str) -> None:
    for item in value.get("report", {}).get("evaluation", []):
        for name in names:
            item.pop(name, None)


def _drop_intervals(value: dict[str, Any]) -> None:
    for item in value.get("report", {}).get("evaluation", []):
        for name in ("low", "high", "confidence"):
            item.get("delta", {}).pop(name, None)


def _cut_message(value: dict[str, Any]) -> None:
    value["message"] = one_line(value.get("message", ""), 200)


def _drop_rest_of_report(value: dict[str, Any]) -> None:
    report = value.get("report", {})
    value["report"] = {name: report[name] for name in ("checkpoint", "attempt", "outcome") if name in report}


def _study(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value.get("study", {})
    return found


def _keep_answers(value: dict[str, Any], count: int) -> None:
    """The last ones: those of the largest budgets."""
    answers = _study(value).get("answers", {})
    for name in ("largestShare", "bestForCorpus"):
        if name in answers:
            answers[name] = answers[name][-count:]


_DROPS = (
    lambda value: value.pop("tags", None),
    lambda value: _drop(value, "report", "decisions"),
    lambda value: _drop(value, "report", "warnings"),
    _drop_intervals,
    lambda value: _drop_of_sets(value, "baseline", "latest"),
    lambda value: _drop(value, "report", "evaluation"),
    lambda value: _drop(value, "pins", "sources"),
    _cut_message,
    lambda value: _drop(value, "report", "replay", "phase", "progress"),
    lambda value: _drop(value, "report", "gates", "promotion"),
    _drop_rest_of_report,
    lambda value: value.pop("report", None),
    lambda value: value.pop("pins", None),
    lambda value: _study(value).get("answers", {}).pop("sets", None),
    lambda value: _study(value).pop("warnings", None),
    lambda value: _keep_answers(value, 4),
    lambda value: _keep_answers(value, 1),
    lambda value: _study(value).pop("answers", None),
    lambda value: value.pop("message", None),
)
"""What `to_message` gives up, in this order."""
