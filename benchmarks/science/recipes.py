"""Manifests of the reproductions: bases from scratch, and runs that continue them. Pure.

base(general) ──┬─> continued(new text, replay of general)
                └─> continued(general): the same text again
union(general + new text), from scratch: the control arm that saw everything at once
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from science.arms import CORPORA, Arm, merged
from science.corpora import GENERAL, LICENSES, NAMES
from science.models import SIZES, VOCABULARY

SEQUENCE = 128
BASE_BATCH, BATCH = 4_096, 2_048
# The published ratio of the final to the peak rate (2403.08763: 3e-4 to 3e-5).
FINAL_SHARE = 0.1


@dataclass(frozen=True)
class Setting:
    """How large a reproduction is: model, seeds, tokens of the base and of each continuation."""

    size: str = "0.5M"
    seeds: tuple[int, ...] = (1, 2, 3)
    base_tokens: int = 1_600_000
    tokens: int = 300_000
    held_out: int = 80

    @property
    def peak(self) -> float:
        return SIZES[self.size].peak


# A rehearsal goes through every step in minutes and measures nothing worth writing down.
REHEARSAL = Setting(seeds=(1, 2), base_tokens=20_000, tokens=20_000, held_out=40)


def source(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "uri": f"{CORPORA}{name}.jsonl",
        "format": "JsonLines",
        "groupField": "origin",
        "license": LICENSES[name],
    }


def cosine(setting: Setting, peak: float = 1.0, warmup: str = "1%") -> dict[str, Any]:
    """Warm up, decay by a cosine; `peak` in units of the base's own peak."""
    rate = peak * setting.peak
    return {"kind": "Rewarm", "peakLearningRate": rate, "finalLearningRate": rate * FINAL_SHARE, "warmup": warmup}


def constant(setting: Setting, rate: float = FINAL_SHARE) -> dict[str, Any]:
    """No re-warming: the base's final rate throughout."""
    return {"kind": "Constant", "peakLearningRate": rate * setting.peak, "warmup": 0}


def base(setting: Setting, seed: int, schedule: Mapping[str, Any] | None = None, name: str = "base") -> Arm:
    """A model from scratch on the general text. Its vocabulary has seen all four texts, as one of today has."""
    return _scratch(name, setting, seed, {GENERAL: 1.0}, setting.base_tokens, schedule or cosine(setting), [GENERAL])


def mixed(setting: Setting, seed: int, texts: tuple[str, ...]) -> Arm:
    """A base from scratch on several texts in equal shares, as many tokens in all as any other base."""
    shares = dict.fromkeys(texts, 1.0)
    name = "base-" + "-".join(texts)
    return _scratch(name, setting, seed, shares, setting.base_tokens, cosine(setting), list(texts))


def union(setting: Setting, seed: int, new: str) -> Arm:
    """The control arm: from scratch on both texts at once, as many tokens of each as base and continuation took."""
    shares = {GENERAL: setting.base_tokens / 1000, new: setting.tokens / 1000}
    total = setting.base_tokens + setting.tokens
    return _scratch(f"union-{new}", setting, seed, shares, total, cosine(setting), [GENERAL, new])


def _scratch(
    name: str,
    setting: Setting,
    seed: int,
    shares: Mapping[str, float],
    tokens: int,
    schedule: Mapping[str, Any],
    sets: list[str],
) -> Arm:
    others = [source(other) for other in NAMES if other not in shares]
    weighted = [{**source(each), **({"weight": weight} if len(shares) > 1 else {})} for each, weight in shares.items()]
    spec = {
        "baseModel": {
            "scratch": {"config": SIZES[setting.size].config, "tokenizer": {"vocabularySize": VOCABULARY}},
        },
        "corpus": {"sources": weighted},
        "replay": {"ratio": 0, "sources": others},
        "schedule": dict(schedule),
        **_rest(setting, seed, tokens, BASE_BATCH),
        "evaluation": {
            **_evaluation(setting, every="50%", look=2_000),
            "sets": [{"name": each, "role": "New"} for each in sets],
        },
    }
    return Arm(f"{name}-s{seed}", spec)


def continued(
    name: str,
    setting: Setting,
    seed: int,
    on: Arm,
    new: str,
    *,
    ratio: float = 0.0,
    schedule: Mapping[str, Any] | None = None,
    retained: tuple[str, ...] = (GENERAL,),
    lines: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Arm:
    """A run that continues `on` with the text `new`, replaying `ratio` of what is `retained`.

    `lines` are further lines of the spec, merged block by block (a method, phases, an adaptation); `run` further lines
    of `baseModel.run` (checkpoint, anneal).
    """
    old = [each for each in retained if each != new]
    spec: dict[str, Any] = {
        "baseModel": {"run": {"path": on, **(run or {})}},
        "corpus": {"sources": [source(new)]},
        "schedule": dict(schedule or cosine(setting)),
        **_rest(setting, seed, setting.tokens, BATCH),
        "evaluation": _evaluation(setting, every="10%", look=12_000),
    }
    if old:
        spec["replay"] = {"ratio": ratio, "sources": [source(each) for each in old]}
    return Arm(f"{name}-s{seed}", merged(spec, lines or {}))


def _evaluation(setting: Setting, every: str, look: int) -> dict[str, Any]:
    """At least `held_out` documents a set; looks after 2^j updates until `every`, then at each `every`."""
    held_out = {"fraction": "1%", "minimumDocuments": setting.held_out, "maximumTokens": 1_000_000}
    return {"every": every, "heldOut": held_out, "lookTokens": look}


def _rest(setting: Setting, seed: int, tokens: int, batch: int) -> dict[str, Any]:
    return {
        "budget": {"tokens": tokens},
        # FP32, because what a processor can compute would else be part of the result.
        "training": {"sequenceLength": SEQUENCE, "globalBatchTokens": batch, "precision": "FP32", "seed": seed},
        "checkpoints": {"every": "50%", "keep": 1},
    }
