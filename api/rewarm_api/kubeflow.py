"""Kubeflow Trainer's progress payload: what an unmodified Hugging Face `KubeflowCallback` sends, as our report has it.

`{"progressPercentage": 40, "estimatedRemainingSeconds": 60, "metrics": [{"name": "current_step", "value": "12"}],
"lastUpdatedTime": "..."}`: values of metrics are text, and names are free.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from rewarm_api.messages import found_text

_MOST_METRICS = 256


def report_of(status: Any, error: type[ValueError]) -> dict[str, Any]:
    """The fields of a Report that `trainerStatus` tells. Raises `error` where it has another form."""
    if not isinstance(status, dict):
        raise error(f"trainerStatus: found {found_text(status)}, expected a mapping")
    percent = _number(status, "progressPercentage", 100, error)
    remaining = _number(status, "estimatedRemainingSeconds", None, error)
    metrics = _metrics(status.get("metrics"), error)
    progress: dict[str, Any] = {}
    if percent is not None:
        progress["percent"] = int(percent)
    if remaining is not None:
        progress["etaSeconds"] = remaining
    step = metrics.get("current_step")
    if step is not None and 0 <= step < 2**53:
        progress["step"] = int(step)
    report: dict[str, Any] = {"progress": progress} if progress else {}
    if metrics.get("learning_rate", -1.0) >= 0:
        report["learningRate"] = metrics["learning_rate"]
    return report


def _number(status: dict[str, Any], name: str, maximum: float | None, error: type[ValueError]) -> float | None:
    value = status.get(name)
    if value is None:
        return None
    most = float("inf") if maximum is None else maximum
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (isfinite(value) and 0 <= value <= most):
        upper = "" if maximum is None else f" <= {maximum:g}"
        raise error(f"trainerStatus.{name}: found {found_text(value)}, expected a number, 0 <= {name}{upper}")
    return value


def _metrics(items: Any, error: type[ValueError]) -> dict[str, float]:
    """Metrics that are finite numbers, by name; others are other people's and are passed over."""
    if items is None:
        return {}
    if not isinstance(items, list) or len(items) > _MOST_METRICS:
        raise error(f"trainerStatus.metrics: found {found_text(items)}, expected a list of at most {_MOST_METRICS}")
    metrics: dict[str, float] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise error(f"trainerStatus.metrics[{index}]: found {found_text(item)}, expected {{name, value}}")
        try:
            value = float(item.get("value", ""))
        except (TypeError, ValueError):
            continue
        if isfinite(value):
            metrics[item["name"]] = value
    return metrics
