"""What an address must not hold, wherever it stands: credentials, a way out of its claim, code.

A manifest is read by more people than a secret, ends in the snapshot, and is written by people who may not be trusted
with everything that the operator and other runs can reach.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.fields import Spec
from rewarm_api.finish_rules import models_of
from rewarm_api.redaction import has_credentials

CLAIM_ESCAPE = r"^claim://[^/]+/(/|(.*/)?[.][.](/|$))"
"""A path in a claim that is absolute or climbs."""
TRACKING = r"^https?://[^/@\s]+(/\S*)?$"
"""An MLflow server as a cluster may name it: whoever writes a manifest must not have the operator open files."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]*(/[-A-Za-z0-9._]+)?")


def safety_problems(spec: Any, local: bool | None) -> Iterator[Problem]:
    """Problems of addresses, models and tracking. Broken fields (None) are passed over."""
    for path, text in _texts("spec", spec):
        if has_credentials(text):
            yield Problem(
                path, text, "an address without user and password",
                "take them out, and give them by the environment: locally as it is, on a cluster by spec.credentials",
            )  # fmt: skip
        elif re.match(CLAIM_ESCAPE, text):
            yield Problem(path, text, "a path inside the claim", "write it without .. and without a second slash")
    for path, model in [("spec.baseModel", spec.base_model), *models_of(spec)]:
        yield from _model_problems(path, model)
    uri = spec.tracking and spec.tracking.uri
    if uri and local is False and not has_credentials(uri) and not re.match(TRACKING, uri):
        expected = "http:// or https:// and a host: a cluster tracks with an MLflow server"
        yield Problem("spec.tracking.uri", uri, expected, "name the server, or leave it to the chart's default")


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text of the spec with its place, free-form parts and pod templates apart: these are no addresses."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(f"{path}[{index}]", item)
    elif isinstance(value, Spec) and not path.endswith(".podTemplate"):
        for name, field in type(value).model_fields.items():
            yield from _texts(f"{path}.{field.alias or name}", getattr(value, name))


def _model_problems(path: str, model: Any) -> Iterator[Problem]:
    if model is None:
        return
    volume = getattr(model, "volume", None)
    if volume is not None and volume.path and re.match(CLAIM_ESCAPE, f"claim://c/{volume.path}"):
        expected = "a folder inside the claim, as models/base"
        yield Problem(f"{path}.volume.path", volume.path, expected, "write it without .. and without a first slash")
    hub = getattr(model, "hugging_face", None)
    if hub is not None and hub.repo is not None and (not _REPOSITORY.fullmatch(hub.repo) or ".." in hub.repo):
        yield Problem(f"{path}.huggingFace.repo", hub.repo, "a repository of the hub, as owner/name", "correct it")
    scratch = getattr(model, "scratch", None)
    if scratch is not None and "auto_map" in (scratch.config or {}):
        expected = "an architecture that transformers has: code from elsewhere is never run"
        yield Problem(f"{path}.scratch.config.auto_map", "auto_map", expected, "remove auto_map")
