"""Which source helps which: the runs that a skill graph is learned from.

    base --+-- only-a       all tokens of one source
           |-- only-b
           `-- a-and-b      as many tokens, half of each: does b's text make a better, at half of a's own?

`python -m rewarm_api.skills FILE` writes one manifest for each run beside FILE: every source alone, and every pair.
All start from the same base with equal tokens, and every source stays held out and measured in all of them. When they
are finished, `python -m rewarm_trainer.skills FOLDER...` prints the lines of
`mixture.skillGraph.edges`. Learning the graph: Chen et al. 2023 (2307.14430), recalled, not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from rewarm_api.ablation import LONGEST_NAME, arm_of, write_arms
from rewarm_api.errors import ManifestError, Problem
from rewarm_api.messages import found_text
from rewarm_api.validate import validate


def learning_runs(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Manifests by the name of their run. `document` is a run with two or more corpus sources and no phases or mixture.

    Raises ManifestError (64) otherwise.
    """
    validation = validate(dict(document), local=None)
    if validation.problems:
        raise ManifestError(validation.problems)
    if problems := list(_unfit(document)):
        raise ManifestError(problems)
    names = [source["name"] for source in document["spec"]["corpus"]["sources"]]
    return {
        run: arm_of(document, run, {name: float(name in chosen) for name in names})
        for run, chosen in _runs(document["metadata"]["name"], names)
    }


def _runs(name: str, sources: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, its sources) of each run: one source alone, then two."""
    for source in sources:
        yield f"{name}-only-{source}", (source,)
    for one, other in combinations(sources, 2):
        yield f"{name}-{one}-and-{other}", (one, other)


def _unfit(document: Mapping[str, Any]) -> Iterator[Problem]:
    spec, sources = document["spec"], [source["name"] for source in document["spec"]["corpus"]["sources"]]
    for field in ("phases", "mixture"):
        if spec.get(field):
            yield Problem(f"spec.{field}", found_text(spec[field]), "nothing: each run gets its weights", "remove it")
    if len(sources) < 2:
        yield Problem("spec.corpus.sources", "one source", "two or more, for one to help another", "add a source")
    for run, _ in _runs(document["metadata"]["name"], sources):
        if len(run) > LONGEST_NAME:
            yield Problem("metadata.name", run, f"at most {LONGEST_NAME} characters for each run", "shorten the name")


def main(arguments: list[str] | None = None) -> int:
    """Write the runs beside the manifest and print their paths."""
    return write_arms("rewarm_api.skills", learning_runs, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
