"""`rewarm compare`: two runs or two models, paired per document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewarm_cli.output import Output, emit, show, table


def execute(first: Path, second: Path, output: Output) -> int:
    """0. Raises MissingInputError (66) when one of them is not there."""
    from rewarm_trainer.compare import compare

    result: dict[str, Any] = compare(first, second)
    if output is Output.JSON:
        emit(result)
        return 0
    from rewarm_trainer.verdict_view import benchmark_table, interval

    rows = [
        (
            name,
            item.get("role") or "",
            item["verdict"] or "–",
            str(item["documents"]),
            f"{interval(item['delta'])}{'' if item['unit'] == 'nats per token' else ' per byte'}",
            f"{item['first']['bits_per_byte']:.4f}",
            f"{item['second']['bits_per_byte']:.4f}",
        )
        for name, item in result["sets"].items()
    ]
    title = f"{second} minus {first}: nats per token, below zero is better"
    columns = ("set", "role", "verdict", "documents", "delta [95 %]", "bits per byte", "then")
    show(table(title, columns, rows, words=3))
    if result["benchmarks"]:
        show(benchmark_table(result["benchmarks"], f"{second} against {first}: right answers by item, above is better"))
    print(
        "These two checkpoints, not their recipes: seed noise is not in these intervals; three seeds or more show it."
    )
    return 0
