"""CEL rules of `controller_rules.py` and `subset_rules.py`: what an API server refuses too."""

from __future__ import annotations

from typing import Any

CelRule = dict[str, Any]


def _percent(field: str) -> str:
    return f"double({field}.find('^[0-9.]+'))"


_MINIMUM, _MAXIMUM = _percent("self.adaptive.minimum"), _percent("self.adaptive.maximum")

REPLAY: list[CelRule] = [
    {
        "rule": f"!has(self.adaptive) || ({_MINIMUM} <= {_MAXIMUM} && {_MAXIMUM} < 100.0)",
        "message": "adaptive.minimum <= adaptive.maximum < 100%",
        "fieldPath": ".adaptive",
    },
    {
        # Decimal percentages and binary ratios: a hair of tolerance, `validate` is exact.
        "rule": f"!has(self.adaptive) || !has(self.ratio) || (self.ratio * 100.0 >= {_MINIMUM} - 1e-9 && "
        f"self.ratio * 100.0 <= {_MAXIMUM} + 1e-9)",
        "message": "the ratio starts between adaptive.minimum and adaptive.maximum",
        "fieldPath": ".ratio",
    },
]

SPEC: list[CelRule] = [
    {
        "rule": "!has(self.replay) || !has(self.replay.adaptive) || !has(self.gates) || "
        "!has(self.gates.onForgetting) || self.gates.onForgetting != 'RaiseReplay'",
        "message": "replay.adaptive moves the ratio already; use Warn or Stop",
        "fieldPath": ".gates.onForgetting",
    },
]

_SUBSET: list[CelRule] = [
    {"rule": "[has(self.share), has(self.tokens)].exists_one(x, x)", "message": "exactly one of share | tokens"}
]
_SCORED: list[CelRule] = [
    {
        "rule": "(has(self.scoreField) && self.scoreField != '') == "
        "(has(self.subset) && has(self.subset.by) && self.subset.by != 'Random')",
        "message": "scoreField belongs to a subset by HighestScore or LowestScore",
    }
]

RULES: dict[str, list[CelRule]] = {
    "spec.corpus.sources[]": _SCORED,
    "spec.corpus.sources[].subset": _SUBSET,
    "spec.replay.sources[]": _SCORED,
    "spec.replay.sources[].subset": _SUBSET,
    "spec.mixture": [
        {
            "rule": "[has(self.domainDiscrepancy), has(self.skillGraph)].exists_one(x, x)",
            "message": "exactly one of domainDiscrepancy | skillGraph",
        }
    ],
    "spec.mixture.domainDiscrepancy.teacher": [
        {
            "rule": "[has(self.huggingFace), has(self.s3), has(self.file)].exists_one(x, x)",
            "message": "exactly one of huggingFace | s3 | file",
        },
        {
            "rule": "!has(self.file)",
            "message": "a cluster cannot read this machine's files; use huggingFace or s3",
            "fieldPath": ".file",
        },
    ],
    "spec.mixture.skillGraph.edges[]": [
        {"rule": "self.source != self.helps", "message": "an edge joins two sources; each helps itself already"}
    ],
}
