"""A cited study in both its forms. Pure.

    ratio: {fromStudy: NAME, tolerance: 3%}        wherever this package reads a manifest
    fromStudy: {name: NAME, tolerance: 3%}         beside an absent ratio: what an API server can hold

A field of an API server has one type, and rules that compare the ratio need it to be a number. So `rewarm submit` sends
the second form, and validation writes it out as the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.fields import Flag, Name, Percent, Spec
from rewarm_api.messages import found_text


class StudyCitation(Spec):
    """The least replay by which a finished study of this namespace expects the old text to stay within a tolerance,
    instead of ratio. Preparation waits for the study, and pins the number."""

    name: Name
    """Name of the study, whose checkpoints lie beside this run's."""
    tolerance: Percent | None = None
    """How much the loss of every Retained set may rise above the base's. Default: the study's."""
    model: Name | None = None
    """Which model of the study's grid this run trains; required when it has several."""
    extrapolate: Flag = False
    """Ask the law also about budgets and ratios that no run has measured."""


def written_out(document: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The document with `replay.fromStudy` as `replay.ratio`, else as it is; and what is wrong with that form."""
    problems: list[Problem] = []

    def change(replay: dict[str, Any]) -> dict[str, Any]:
        if "fromStudy" not in replay:
            return replay
        asked, rest = replay["fromStudy"], {key: value for key, value in replay.items() if key != "fromStudy"}
        if "ratio" in replay:
            found, expected = "fromStudy beside ratio", "exactly one of ratio | fromStudy"
            problems.append(Problem("spec.replay.fromStudy", found, expected, "remove one of them"))
            return rest
        if not isinstance(asked, dict) or "name" not in asked:
            expected = "{name: NAME}, and with it tolerance, model, extrapolate"
            fix = "name the study, for example {name: my-study, tolerance: 3%}"
            problems.append(Problem("spec.replay.fromStudy", found_text(asked), expected, fix))
            # Any number: only the citation is to be told of.
            return {"ratio": 0, **rest}
        ratio = {"fromStudy": asked["name"], **{key: value for key, value in asked.items() if key != "name"}}
        return {"ratio": ratio, **rest}

    return _changed(document, change), problems


def for_a_server(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a ratio that cites a study as `replay.fromStudy`; anything else as it is."""

    def change(replay: dict[str, Any]) -> dict[str, Any]:
        ratio = replay.get("ratio")
        if not isinstance(ratio, dict) or "fromStudy" not in ratio:
            return replay
        rest = {key: value for key, value in replay.items() if key != "ratio"}
        asked = {"name": ratio["fromStudy"], **{key: value for key, value in ratio.items() if key != "fromStudy"}}
        return {"fromStudy": asked, **rest}

    return _changed(document, change)


def _changed(document: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    spec = document.get("spec")
    replay = spec.get("replay") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(replay, dict):
        return document
    return {**document, "spec": {**spec, "replay": change(replay)}}
