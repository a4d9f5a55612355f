"""Leave one source out: the arms of a study that says what each source of the last phase is worth.

    trunk ------------------------o        the shared checkpoint before the last phase, trained once
                                  |---- all         every source by its weight
                                  |---- no-books    the same tokens without the source `books`
                                  `---- no-code     ...

`python -m rewarm_api.ablation FILE` writes one manifest for each arm beside the branch manifest FILE. Each arm is an
annealed branch of the same trunk checkpoint and differs from the others in the weights of its one phase alone; every
source stays held out and measured in every arm. Ten times cheaper than training again from the start when the last
phase is a tenth of the whole: Blakeney et al. 2024 (2406.03476, abstract), OLMo 2's micro-anneals (2501.00656 [S]).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.messages import found_text
from rewarm_api.validate import validate

LONGEST_NAME = 40


def leave_one_out(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Manifests by the name of their run: one with all sources of the corpus, one without each of them.

    `document` is the manifest of a branch (`baseModel.run.anneal`) with two or more corpus sources, all with weights,
    and no phases. Raises ManifestError (64) otherwise.
    """
    validation = validate(dict(document), local=None)
    if validation.problems:
        raise ManifestError(validation.problems)
    if problems := list(_unfit(document)):
        raise ManifestError(problems)
    weights = {source["name"]: source["weight"] for source in document["spec"]["corpus"]["sources"]}
    name = document["metadata"]["name"]
    arms = {f"{name}-all": weights}
    arms.update({f"{name}-no-{out}": {**weights, out: 0} for out in weights})
    return {arm: arm_of(document, arm, shares) for arm, shares in arms.items()}


def arm_of(document: Mapping[str, Any], name: str, weights: Mapping[str, float]) -> dict[str, Any]:
    """The same run under another name and with these weights of its corpus throughout."""
    arm = copy.deepcopy(dict(document))
    arm["metadata"]["name"] = name
    arm["spec"]["phases"] = [{"name": "last", "share": "100%", "weights": dict(weights)}]
    return arm


def _unfit(document: Mapping[str, Any]) -> Iterator[Problem]:
    spec, sources = document["spec"], document["spec"]["corpus"]["sources"]
    if not (spec["baseModel"].get("run") or {}).get("anneal"):
        yield Problem(
            "spec.baseModel.run.anneal",
            "nothing",
            "a branch: all arms leave one trunk at one checkpoint",
            "add run: {path: TRUNK, checkpoint: STEP, anneal: {length: ...}}",
        )
    if spec.get("phases"):
        yield Problem("spec.phases", found_text(spec["phases"]), "no phases: each arm gets one", "remove phases")
    if len(sources) < 2:
        yield Problem("spec.corpus.sources", "one source", "two or more, to leave one out", "add a source")
    for index, source in enumerate(sources):
        if source.get("weight") is None:
            yield Problem(
                f"spec.corpus.sources[{index}].weight",
                "nothing",
                "a weight: an arm must name the shares of those that stay",
                "add a weight",
            )
        name = f"{document['metadata']['name']}-no-{source['name']}"
        if len(name) > LONGEST_NAME:
            yield Problem("metadata.name", name, f"at most {LONGEST_NAME} characters for each arm", "shorten the name")


def main(arguments: list[str] | None = None) -> int:
    """Write the arms beside the manifest and print their paths."""
    return write_arms("rewarm_api.ablation", leave_one_out, arguments)


def write_arms(
    module: str,
    arms_of: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]],
    arguments: list[str] | None = None,
) -> int:
    """`python -m MODULE FILE`: write the manifests that follow from FILE beside it; 0, or 64 with the problems."""
    from rewarm_api.manifest import read_manifest

    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print(f"usage: python -m {module} FILE", file=sys.stderr)
        return 64
    path = Path(given[0])
    try:
        arms = arms_of(read_manifest(path))
    except ManifestError as error:
        print(f"rewarm: {error}", file=sys.stderr)
        return error.exit_code
    for name, arm in arms.items():
        target = path.parent / f"{name}.yaml"
        target.write_text(yaml.safe_dump(arm, sort_keys=False, allow_unicode=True))
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
