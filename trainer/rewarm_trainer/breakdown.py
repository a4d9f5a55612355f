"""Decides how a set's verdict splits by a column of its documents: a label or language, or a date. Reads no file.

Each group is a set of its own: paired over its documents, with the interval of statistics.py and no verdict below 30
documents. Groups are not corrected for their number: among 20 groups without any effect one interval misses zero.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewarm_trainer.statistics import Numbers, paired_delta, verdict

LARGEST = 50
REST = "(others)"
_DAY = re.compile(r"^\d{4}(-\d{2})?(-\d{2})?([T ].*)?$")


def breakdown(baseline: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """`{"label": {VALUE: ...}, "date": {PERIOD: ...}}` of one set, from its per-document results; None without columns.

    `baseline`, `final`: hashes, nats, labels (scored tokens) and bytes of each document, as in a run's state folder;
    `final` also label_values and dates, None where a document has none (group ""). Beyond 50 values of a column the
    rarer ones share the group "(others)".
    """
    columns = {
        "label": _common(final.get("label_values") or []),
        "date": _common(periods(final.get("dates") or [])),
    }
    found = {
        column: _groups(values, baseline, final)
        for column, values in columns.items()
        if any(value != "" for value in values)
    }
    return found or None


def periods(dates: Sequence[str | None]) -> list[str | None]:
    """Dates by year; by month where all are of one year; as they stand where they are no ISO dates."""
    known = [date for date in dates if date]
    if not all(_DAY.match(date) for date in known):
        return list(dates)
    one_year = len({date[:4] for date in known}) == 1
    return [date and date[: 7 if one_year else 4] for date in dates]


def _common(values: Sequence[str | None]) -> list[str]:
    """Every value as text, the rarer ones of a long list under one name."""
    texts = ["" if value is None else str(value) for value in values]
    counts = Counter(texts)
    if len(counts) <= LARGEST:
        return texts
    kept = set(sorted(counts, key=lambda text: (-counts[text], text))[: LARGEST - 1])
    return [text if text in kept else REST for text in texts]


def _groups(values: list[str], baseline: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, Any]:
    before, after, labels, size = (
        np.array(numbers, dtype=np.float64)
        for numbers in (baseline["nats"], final["nats"], final["labels"], final["bytes"])
    )
    column = np.array(values)
    names = sorted(set(values), key=lambda name: (name in ("", REST), name))
    return {name: _group(before, after, labels, size, column == name) for name in names}


def _group(before: Numbers, after: Numbers, labels: Numbers, size: Numbers, chosen: np.ndarray) -> dict[str, Any]:
    delta = paired_delta(after[chosen] - before[chosen], labels[chosen])
    return {
        "documents": int(chosen.sum()),
        "tokens": int(labels[chosen].sum()),
        "baseline": _losses(before[chosen], labels[chosen], size[chosen]),
        "final": _losses(after[chosen], labels[chosen], size[chosen]),
        "delta": delta.to_json(),
        "verdict": verdict(delta),
    }


def _losses(nats: Numbers, labels: Numbers, size: Numbers) -> dict[str, float | None]:
    total, tokens, length = float(nats.sum()), float(labels.sum()), float(size.sum())
    return {
        "loss": total / tokens if tokens else None,
        "bits_per_byte": total / (math.log(2) * length) if length else None,
    }
