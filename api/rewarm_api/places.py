"""Rules on addresses: their form, and whether a laptop or a cluster can reach them.

`local` is True for a run on this machine, False for a cluster, None for either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rewarm_api.corpus import CitedRatio
from rewarm_api.errors import Problem
from rewarm_api.fields import NAME_PATTERN
from rewarm_api.finish_rules import models_of, runs_of
from rewarm_api.messages import NOTHING
from rewarm_api.rules import named_sources
from rewarm_api.snapshot import Format
from rewarm_api.uri import CLAIM_PATTERN, FOLDER_SCHEMES, SOURCE_SCHEMES, format_of, scheme_of

_BUCKET = re.compile(r"s3://[^/\s*?\[\]]+/\S.*")
_FOLDER = re.compile(r"(s3://[^/\s*?\[\]]+|claim://[a-z0-9][-a-z0-9.]*)(/.*)?")


def address_problems(spec: Any, local: bool | None) -> Iterator[Problem]:
    """Problems of every address in the spec. Broken fields (None) are passed over."""
    for path, source in named_sources(spec):
        problems = [] if source.uri is None else list(_text_problems(f"{path}.uri", source.uri, local))
        yield from problems
        if not problems and "format" not in source.model_fields_set and _needs_format(source.uri):
            yield Problem(
                f"{path}.format", NOTHING, f"a format, since {source.uri} has no known suffix",
                "add format: Parquet, JsonLines, Text or Tokens",
            )  # fmt: skip
        yield from _field_problems(path, source)
    for index, item in enumerate((spec.evaluation and spec.evaluation.sets) or []):
        if item is not None and item.uri is not None:
            path = f"spec.evaluation.sets[{index}].uri"
            problems = list(_text_problems(path, item.uri, local))
            yield from problems
            if not problems and (_needs_format(item.uri) or format_of(item.uri) is Format.TOKENS):
                expected = "a file ending in .parquet, .jsonl or .txt (also .gz, .zst), or hf://"
                yield Problem(path, item.uri, expected, "name files with such a suffix")
    yield from _base_problems(spec.base_model, local)
    yield from _teacher_problems(spec.mixture and spec.mixture.domain_discrepancy, local)
    if spec.replay is not None and spec.replay.from_run is not None:
        yield from _run_problems("spec.replay.fromRun", spec.replay.from_run, local)
    yield from _finish_problems(spec, local)
    if local is False and spec.replay is not None and isinstance(spec.replay.ratio, CitedRatio):
        study = spec.replay.ratio.from_study
        if study is not None and not re.fullmatch(NAME_PATTERN, study):
            yield _local_only("spec.replay.ratio.fromStudy", study, "the name of a study of this namespace")
    for field, part in (("checkpoints", spec.checkpoints), ("cache", spec.cache)):
        if part is not None and part.uri is not None:
            yield from _folder_problems(f"spec.{field}.uri", part.uri, local)


def _needs_format(uri: str | None) -> bool:
    return uri is not None and scheme_of(uri) != "hf" and format_of(uri) is None


def _text_problems(path: str, uri: str, local: bool | None) -> Iterator[Problem]:
    scheme = scheme_of(uri)
    if scheme and scheme not in SOURCE_SCHEMES:
        expected = " | ".join(f"{known}://" for known in SOURCE_SCHEMES)
        yield Problem(path, uri, expected + ("" if local is False else " | a path"), "copy the text to one of these")
    elif scheme == "claim" and not CLAIM_PATTERN.fullmatch(uri):
        yield Problem(path, uri, "claim://NAME/path", "name the claim and a path inside it")
    elif scheme == "s3" and not _BUCKET.fullmatch(uri):
        yield Problem(path, uri, "s3://BUCKET/key", "name the bucket and a key or glob inside it")
    elif scheme in ("file", "hf") and len(uri) <= len(scheme) + 3:
        yield Problem(path, uri, f"{scheme}:// and a path", "add the path")
    elif scheme == "claim" and local:
        yield _cluster_only(path, uri, "a path or s3://")
    elif not scheme and local is False:
        yield _local_only(path, uri, "s3:// or claim://NAME/path")


def _folder_problems(path: str, uri: str, local: bool | None) -> Iterator[Problem]:
    expected = " | ".join(f"{known}://" for known in FOLDER_SCHEMES)
    if not _FOLDER.fullmatch(uri):
        yield Problem(path, uri, f"{expected} and a folder", "use s3://BUCKET/prefix/ or claim://NAME/path")
    elif local and scheme_of(uri) == "claim":
        yield _cluster_only(path, uri, "s3://, or no uri")


def _field_problems(path: str, source: Any) -> Iterator[Problem]:
    """Text has no fields and token shards no text: a field named there would be ignored."""
    kind = source.format or (None if source.uri is None else format_of(source.uri))
    if kind not in (Format.TEXT, Format.TOKENS):
        return
    for alias, value, default in (("textField", source.text_field, "text"), ("groupField", source.group_field, "")):
        if value is not None and value != default:
            yield Problem(f"{path}.{alias}", value, f"no {alias} with format {kind}", f"remove {alias}")


def _base_problems(base: Any, local: bool | None) -> Iterator[Problem]:
    if base is None:
        return
    if base.run is not None:
        yield from _run_problems("spec.baseModel.run", base.run, local)
    yield from _model_problems("spec.baseModel", base, local)
    if local is not False:
        return
    if base.scratch is not None and base.scratch.tokenizer is not None and base.scratch.tokenizer.file is not None:
        yield _local_only("spec.baseModel.scratch.tokenizer.file", base.scratch.tokenizer.file, "vocabularySize")


def _teacher_problems(discrepancy: Any, local: bool | None) -> Iterator[Problem]:
    teacher = discrepancy and discrepancy.teacher
    if teacher is not None and teacher.file is not None and local is False:
        yield _local_only("spec.mixture.domainDiscrepancy.teacher.file", "file", "huggingFace or s3")


def _model_problems(path: str, model: Any, local: bool | None) -> Iterator[Problem]:
    """Of a model folder, wherever it is named."""
    if model.s3 is not None and model.s3.uri is not None and not re.fullmatch(r"s3://[^/\s]+(/\S*)?", model.s3.uri):
        yield Problem(f"{path}.s3.uri", model.s3.uri, "s3://BUCKET/prefix/", "name the bucket and the folder")
    if local and model.volume is not None:
        yield _cluster_only(f"{path}.volume", "volume", "file: {path: ...}")
    if local is False and model.file is not None:
        yield _local_only(f"{path}.file", "file", "huggingFace, s3, volume, mlflow or run")


def _finish_problems(spec: Any, local: bool | None) -> Iterator[Problem]:
    for path, run in runs_of(spec):
        yield from _run_problems(path, run, local)
    for path, model in models_of(spec):
        yield from _model_problems(path, model, local)


def _run_problems(path: str, run: Any, local: bool | None) -> Iterator[Problem]:
    """A cluster knows runs by name, a machine by their work folder."""
    if local is False and run.path is not None:
        yield _local_only(f"{path}.path", run.path, "name: the run's name")
    if local and run.name is not None:
        yield Problem(f"{path}.name", run.name, "path: this machine knows no runs by name", "use path: the work folder")


def _local_only(path: str, found: str, instead: str) -> Problem:
    return Problem(path, found, f"{instead}: a cluster cannot read this machine's files", f"use {instead}")


def _cluster_only(path: str, found: str, instead: str) -> Problem:
    return Problem(path, found, f"{instead}: this machine has no claims", f"use {instead}, or submit to a cluster")
