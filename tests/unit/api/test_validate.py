"""Every refusal: the field to edit, what was found, what was expected, what to do. And all of them at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rewarm_api.rules import batch_problems
from rewarm_api.run import ContinualRun
from rewarm_api.validate import CLUSTER_ONLY, validate

INFINITE = {
    "spec.schedule": "{kind: Infinite, peakLearningRate: 3e-4, constantLearningRate: 1e-4, cooldown: {length: 60%}}"
}
STABLE = {"spec.schedule": "{kind: WarmupStableDecay, peakLearningRate: 3e-4, decayLength: 20%}"}
REPLAY = {"spec.replay": "{ratio: 0.25, sources: [{name: general, uri: general.jsonl, license: MIT}]}"}

# (what is changed, (field, found, expected, fix)); a text that ends in … need only begin like that.
REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "ratio beyond one": (
        {**REPLAY, "spec.replay.ratio": "1.2"},
        ("spec.replay.ratio", "1.2", "0 <= ratio < 1", "change ratio to a number in this range"),
    ),
    "ratio as text": (
        {**REPLAY, "spec.replay.ratio": "'0.25'"},
        ("spec.replay.ratio", '"0.25"', "0 <= ratio < 1", "write it without quotes"),
    ),
    "unknown field": (
        {"spec.training.sequnceLength": "5"},
        ("spec.training.sequnceLength", "the unknown field sequnceLength", "one of sequenceLength, …",
         "did you mean sequenceLength?"),
    ),
    "unknown field in snake case": (
        {"spec.schedule.peak_learning_rate": "5"},
        ("spec.schedule.peak_learning_rate", "the unknown field peak_learning_rate", "one of kind, …",
         "did you mean peakLearningRate?"),
    ),
    "unknown field without a neighbour": (
        {"spec.colour": "5"},
        ("spec.colour", "the unknown field colour", "one of baseModel, …", "remove colour"),
    ),
    "unknown field at the root": (
        {"specs": "{}"}, ("specs", "the unknown field specs", "one of apiVersion, …", "did you mean spec?"),
    ),
    "missing field": (
        {"spec.schedule.peakLearningRate": None},
        ("spec.schedule.peakLearningRate", "nothing", "0 < peakLearningRate", "add peakLearningRate: it is required"),
    ),
    "null is absence": (
        {"spec.training.sequenceLength": "null"},
        ("spec.training.sequenceLength", "nothing", "a whole number, …", "add sequenceLength: it is required"),
    ),
    "missing part": (
        {"spec.budget": None},
        ("spec.budget", "nothing", "a mapping with the fields tokens, epochs", "add budget: it is required"),
    ),
    "an empty list item": (
        {"spec.corpus.sources[1]": "null"},
        ("spec.corpus.sources[1]", "nothing", "a mapping with …", "fill in this item or remove it"),
    ),
    "no source": (
        {"spec.corpus.sources": "[]"},
        ("spec.corpus.sources", "0 items", "a list of 1 to 64 items", "add an item"),
    ),
    "a mapping for a list": (
        {"spec.corpus.sources": "{name: a}"},
        ("spec.corpus.sources", "a mapping with name", "a list of 1 to 64 items", "write a list"),
    ),
    "a value for a mapping": (
        {"spec.training": "5"}, ("spec.training", "5", "a mapping with the fields …", "write a mapping"),
    ),
    "another version": (
        {"apiVersion": "rewarm.dev/v1"},
        ("apiVersion", "rewarm.dev/v1", "rewarm.dev/v1alpha1", "did you mean rewarm.dev/v1alpha1?"),
    ),
    "another kind": ({"kind": "Job"}, ("kind", "Job", "ContinualRun", "use ContinualRun")),
    "a name with dots": (
        {"metadata.name": "llama.pubmed"},
        ("metadata.name", "llama.pubmed", "a name: a lower-case letter, …", "change name"),
    ),
    "a long name": (
        {"metadata.name": "a" * 41}, ("metadata.name", "a" * 41, "a name: …", "shorten it"),
    ),
    "a number for text": (
        {"spec.baseModel": "{huggingFace: {repo: a/b, revision: 1234567}}"},
        ("spec.baseModel.huggingFace.revision", "1234567", "text of 1 to 256 characters",
         "quote it: this field is text"),
    ),
    "yes is text": ({"spec.suspend": "yes"}, ("spec.suspend", "yes", "true or false", "write true or false")),
    "an enum in the wrong case": (
        {"spec.training.precision": "bf16"},
        ("spec.training.precision", "bf16", "BF16 | FP32", "did you mean BF16?"),
    ),
    "an unsupported adaptation": (
        {"spec.training.adaptation": "Prefix"},
        ("spec.training.adaptation", "Prefix", "Full | LoRA", "use Full or LoRA"),
    ),
    "an unsupported replay method": (
        {**REPLAY, "spec.replay.method": "Reservoir"},
        (
            "spec.replay.method",
            "Reservoir",
            "Interleave | MetaExperienceReplay",
            "use Interleave or MetaExperienceReplay",
        ),
    ),
    "an infinite number": (
        {"spec.schedule.peakLearningRate": ".inf"},
        ("spec.schedule.peakLearningRate", "Infinity", "0 < peakLearningRate", "change peakLearningRate to …"),
    ),
    "a fractional count": (
        {"spec.training.sequenceLength": "64.5"},
        ("spec.training.sequenceLength", "64.5", "a whole number, 1 <= sequenceLength <= 16777216", "change …"),
    ),
    "half a token": (
        {"spec.budget.tokens": "0.5"},
        ("spec.budget.tokens", "0.5", "a token quantity from 1 to 2^63-1, …", "a quantity must come …"),
    ),
    "a budget in percent": (
        {"spec.budget.tokens": "5%"},
        ("spec.budget.tokens", "5%", "a token quantity …", "write tokens: a percentage is not allowed here"),
    ),
    "marks at nothing": (
        {"spec.evaluation.every": "0"},
        ("spec.evaluation.every", "0", 'tokens ("20M", at least 1) or percent of the plan ("1%")', "use at least 1"),
    ),
    "a fraction that is no percentage": (
        {"spec.evaluation.heldOut.fraction": "0.05"},
        ("spec.evaluation.heldOut.fraction", "0.05", 'a percentage, such as "5%"', 'write "5%"'),
    ),
    "two base models": (
        {"spec.baseModel.file": "{path: base}"},
        ("spec.baseModel", "file and scratch", "exactly one of huggingFace | …", "keep one of them"),
    ),
    "no base model": (
        {"spec.baseModel": "{}"}, ("spec.baseModel", "nothing", "exactly one of huggingFace | …", "add one of them"),
    ),
    "a registered model twice": (
        {"spec.baseModel": "{mlflow: {model: m, alias: a, version: '7'}}"},
        ("spec.baseModel.mlflow", "alias and version", "exactly one of alias | version", "keep one of them"),
    ),
    "a run nowhere": (
        {"spec.baseModel": "{run: {checkpoint: Best}}"},
        ("spec.baseModel.run", "nothing", "exactly one of name | path", "add one of them"),
    ),
    "a checkpoint of no name": (
        {"spec.baseModel": "{run: {path: x, checkpoint: Newest}}"},
        ("spec.baseModel.run.checkpoint", "Newest", "Final, Latest, Best, or a step number", "change checkpoint to …"),
    ),
    "two tokenizers": (
        {"spec.baseModel.scratch.tokenizer": "{file: tok, vocabularySize: 512}"},
        ("spec.baseModel.scratch.tokenizer", "vocabularySize and file", "exactly one of vocabularySize | file",
         "keep one of them"),
    ),
    "a config without a type": (
        {"spec.baseModel.scratch.config": "{hidden_size: 64}"},
        ("spec.baseModel.scratch.config.model_type", "nothing", "the name of a transformers model type",
         "add model_type, for example llama"),
    ),
    "a config that is no JSON": (
        {"spec.baseModel.scratch.config": "{model_type: llama, scale: .nan}"},
        ("spec.baseModel.scratch.config", "a mapping with model_type, scale", "a mapping of JSON values",
         "use finite numbers, text, true and false"),
    ),
    "two budgets": (
        {"spec.budget.epochs": "1"},
        ("spec.budget", "tokens and epochs", "exactly one of tokens | epochs", "keep one of them"),
    ),
    "no budget": ({"spec.budget": "{}"}, ("spec.budget", "nothing", "exactly one of tokens | epochs", "add one …")),
    "weights on some": (
        {"spec.corpus.sources[1]": "{name: b, uri: b.txt, weight: 2}"},
        ("spec.corpus.sources[0].weight", "nothing", "a weight on all sources of a group or on none",
         "add a weight here or remove the others"),
    ),
    "weight of nothing": (
        {"spec.corpus.sources[0].weight": "0"},
        ("spec.corpus.sources[0].weight", "0", "0 < weight", "change weight to a number in this range"),
    ),
    "a name twice": (
        {**REPLAY, "spec.replay.sources[0].name": "notes"},
        ("spec.replay.sources[0].name", "notes, which spec.corpus.sources[0] has",
         "a name that no other source of corpus or replay has", "rename one of them"),
    ),
    "a set twice": (
        {"spec.evaluation.sets": "[{name: notes}, {name: notes, role: New}]"},
        ("spec.evaluation.sets[1].name", "notes, which spec.evaluation.sets[0] has", "a name that no other set has",
         "rename one of them"),
    ),
    "a set of no source": (
        {"spec.evaluation.sets": "[{name: wiki, role: New}]"},
        ("spec.evaluation.sets[0].name", "wiki", "the name of a source (notes), since the set has no uri",
         "name a source or add a uri"),
    ),
    "a set without a role": (
        {"spec.evaluation.sets": "[{name: wiki, uri: wiki.jsonl}]"},
        ("spec.evaluation.sets[0].role", "nothing", "New | Retained", "add the role of this set"),
    ),
    "a set that reads its source's text elsewhere": (
        {"spec.evaluation.sets": "[{name: notes, role: New, textField: body}]"},
        ("spec.evaluation.sets[0].textField", "body", "text, as its source says", "remove textField"),
    ),
    "replay of nothing": (
        {"spec.replay": "{ratio: 0.25}"},
        ("spec.replay", "ratio 0.25 without sources", "exactly one of sources | fromRun when ratio > 0",
         "add sources to replay, or set ratio to 0"),
    ),
    "replay of two things": (
        {**REPLAY, "spec.replay.fromRun": "{path: x}"},
        ("spec.replay", "sources and fromRun", "exactly one of sources | fromRun", "keep one of them"),
    ),
    "replay of no run": (
        {"spec.replay": "{ratio: 0.25, fromRun: {}}"},
        ("spec.replay.fromRun", "nothing", "exactly one of name | path", "add one of them"),
    ),
    "a run of a cluster": (
        {"spec.baseModel": "{run: {name: base}}"},
        ("spec.baseModel.run.name", "base", "path: this machine knows no runs by name", "use path: the work folder"),
    ),
    "replay of a run of a cluster": (
        {"spec.replay": "{ratio: 0.25, fromRun: {name: base}}"},
        ("spec.replay.fromRun.name", "base", "path: this machine knows no runs by name", "use path: the work folder"),
    ),
    "a batch of broken rows": (
        {"spec.training.globalBatchTokens": "1000"},
        ("spec.training.globalBatchTokens", "1000", "a multiple of sequenceLength 64", "use 960 or 1024"),
    ),
    "a batch below a row": (
        {"spec.training.globalBatchTokens": "10"},
        ("spec.training.globalBatchTokens", "10", "a multiple of sequenceLength 64", "use 64"),
    ),
    "a warm-up longer than the plan": (
        {"spec.schedule.warmup": "1M"},
        ("spec.schedule.warmup", "1000000 tokens", "at most the plan's 64512 tokens",
         "shorten the warm-up or raise the budget"),
    ),
    "a warm-up beyond all": (
        {"spec.schedule.warmup": "101%"},
        ("spec.schedule.warmup", "101% (65157 tokens)", "at most the plan's 64512 tokens", "shorten the warm-up …"),
    ),
    "segments beyond the plan": (
        {**INFINITE, "spec.schedule.anneal": "{length: 44%}"},
        ("spec.schedule.anneal.length", "44% (28385 tokens)",
         "at most the plan's 64512 tokens, 39352 of which go to the segments before it",
         "shorten the anneal or raise the budget"),
    ),
    "segments beyond a plan in epochs": (
        {**STABLE, "spec.schedule.warmup": "90%", "spec.budget": "{epochs: 1}"},
        ("spec.schedule.decayLength", "20% after 90% for the segments before it",
         "segments of at most 100% of the plan", "shorten the decay"),
    ),
    "a decay that is too long": (
        {**STABLE, "spec.schedule.decayLength": "64K"},
        ("spec.schedule.decayLength", "64000 tokens", "at most the plan's 64512 tokens, 645 of which …", "shorten …"),
    ),
    "a final rate above the peak": (
        {"spec.schedule.finalLearningRate": "1"},
        ("spec.schedule.finalLearningRate", "1", "0 <= final <= peak", "use at most 0.001"),
    ),
    "a final rate above the constant": (
        {**INFINITE, "spec.schedule.finalLearningRate": "2e-4", "spec.schedule.anneal": "{length: 14%}"},
        ("spec.schedule.finalLearningRate", "0.0002", "0 <= final <= constant <= peak", "use at most 0.0001"),
    ),
    "a default final rate above the constant": (
        {**INFINITE, "spec.schedule.constantLearningRate": "1e-6", "spec.schedule.anneal": "{length: 14%}"},
        ("spec.schedule.finalLearningRate", "3e-05 (default: a tenth of the peak)", "0 <= final <= constant <= peak",
         "use at most 1e-06"),
    ),
    "a constant rate above the peak": (
        {**INFINITE, "spec.schedule.constantLearningRate": "1e-3"},
        ("spec.schedule.constantLearningRate", "0.001", "constant <= peak", "use at most 0.0003"),
    ),
    "a negative final rate": (
        {"spec.schedule.finalLearningRate": "-1e-9"},
        ("spec.schedule.finalLearningRate", "-1e-09", "0 <= finalLearningRate", "change finalLearningRate to …"),
    ),
    "an exponential to nothing": (
        {"spec.schedule.decay": "Exponential", "spec.schedule.finalLearningRate": "0"},
        ("spec.schedule.finalLearningRate", "0", "0 < finalLearningRate with an Exponential decay",
         "raise finalLearningRate, or choose another decay"),
    ),
    "an anneal to nothing": (
        {**INFINITE, "spec.schedule.finalLearningRate": "0", "spec.schedule.anneal": "{length: 14%}"},
        ("spec.schedule.finalLearningRate", "0", "0 < finalLearningRate with an Exponential decay", "raise …"),
    ),
    "an anneal that cannot be a cosine": (
        {**INFINITE, "spec.schedule.anneal": "{length: 14%, decay: Cosine}"},
        ("spec.schedule.anneal.decay", "Cosine", "Exponential | Linear | OneMinusSqrt", "use …"),
    ),
    "a cooldown that Rewarm does not use": (
        {"spec.schedule.cooldown": "{length: 60%}"},
        ("spec.schedule.cooldown", "cooldown with kind Rewarm", "only fields that Rewarm uses: …",
         "remove cooldown, or choose the kind that uses it"),
    ),
    "a final rate that Constant does not use": (
        {"spec.schedule.kind": "Constant", "spec.schedule.finalLearningRate": "1e-5"},
        ("spec.schedule.finalLearningRate", "finalLearningRate with kind Constant", "only fields …", "remove …"),
    ),
    "a decay that Infinite does not use": (
        {**INFINITE, "spec.schedule.decay": "Linear"},
        ("spec.schedule.decay", "decay with kind Infinite", "only fields …", "remove decay, …"),
    ),
    "an Infinite without cooldown": (
        {**INFINITE, "spec.schedule.cooldown": None},
        ("spec.schedule.cooldown", "nothing", "cooldown, which Infinite requires", "add cooldown"),
    ),
    "an Infinite without a constant rate": (
        {**INFINITE, "spec.schedule.constantLearningRate": None},
        ("spec.schedule.constantLearningRate", "nothing", "constantLearningRate, which Infinite requires", "add …"),
    ),
    "a stable schedule without a decay": (
        {**STABLE, "spec.schedule.decayLength": None},
        ("spec.schedule.decayLength", "nothing", "decayLength, which WarmupStableDecay requires", "add decayLength"),
    ),
    "a timescale of a cosine": (
        {"spec.schedule.timescale": "5"},
        ("spec.schedule.timescale", "timescale with a decay other than InverseSqrt",
         "timescale only with decay InverseSqrt", "remove timescale, or set decay to InverseSqrt"),
    ),
    "a timescale of a cosine cooldown": (
        {**INFINITE, "spec.schedule.cooldown.timescale": "5"},
        ("spec.schedule.cooldown.timescale", "timescale with a decay other than InverseSqrt", "timescale …", "…"),
    ),
    "a kept optimizer of no run": (
        {"spec.schedule.optimizerState": "Keep"},
        ("spec.schedule.optimizerState", "Keep with a base model that is no run",
         "Keep only with baseModel.run, which has an optimizer state", "use Reset, or continue a run"),
    ),
    "a watch without a limit": (
        {"spec.gates": "{onForgetting: Stop}"},
        ("spec.gates.maxForgetting", "nothing", "a limit, which onForgetting Stop watches",
         "add maxForgetting, or use onForgetting: Warn"),
    ),
    "a raise of no replay": (
        {"spec.gates": "{maxForgetting: 0.02, onForgetting: RaiseReplay}"},
        ("spec.gates.onForgetting", "RaiseReplay without replay", "a replay ratio above 0 to raise",
         "add replay, or use Warn or Stop"),
    ),
    "a bucket of another cloud": (
        {"spec.corpus.sources[0].uri": "gs://bucket/x.txt"},
        ("spec.corpus.sources[0].uri", "gs://bucket/x.txt", "s3:// | file:// | hf:// | claim:// | a path",
         "copy the text to one of these"),
    ),
    "a bucket without a key": (
        {"spec.corpus.sources[0].uri": "s3://bucket"},
        ("spec.corpus.sources[0].uri", "s3://bucket", "s3://BUCKET/key", "name the bucket and a key or glob inside it"),
    ),
    "a claim without a path": (
        {"spec.corpus.sources[0].uri": "claim://texts"},
        ("spec.corpus.sources[0].uri", "claim://texts", "claim://NAME/path", "name the claim and a path inside it"),
    ),
    "a dataset without a name": (
        {"spec.corpus.sources[0].uri": "'hf://'"},
        ("spec.corpus.sources[0].uri", "hf://", "hf:// and a path", "add the path"),
    ),
    "an unknown suffix": (
        {"spec.corpus.sources[0].uri": "notes/*"},
        ("spec.corpus.sources[0].format", "nothing", "a format, since notes/* has no known suffix",
         "add format: Parquet, JsonLines, Text or Tokens"),
    ),
    "a set of an unknown suffix": (
        {"spec.evaluation.sets": "[{name: wiki, role: New, uri: wiki.doc}]"},
        ("spec.evaluation.sets[0].uri", "wiki.doc", "a file ending in .parquet, .jsonl or .txt (also .gz, .zst), or hf://",
         "name files with such a suffix"),
    ),
    "a field of plain text": (
        {"spec.corpus.sources[0].groupField": "origin"},
        ("spec.corpus.sources[0].groupField", "origin", "no groupField with format Text", "remove groupField"),
    ),
    "a pin that is no digest": (
        {"spec.corpus.sources[0].digest": "md5:1"},
        ("spec.corpus.sources[0].digest", "md5:1", "sha256: and 64 lower-case hexadecimal digits", "change digest"),
    ),
    "checkpoints on a path": (
        {"spec.checkpoints.uri": "./checkpoints"},
        ("spec.checkpoints.uri", "./checkpoints", "s3:// | claim:// and a folder",
         "use s3://BUCKET/prefix/ or claim://NAME/path"),
    ),
    "a model on a path for a bucket": (
        {"spec.baseModel": "{s3: {uri: models/llama}}"},
        ("spec.baseModel.s3.uri", "models/llama", "s3://BUCKET/prefix/", "name the bucket and the folder"),
    ),
    "a claim on a laptop": (
        {"spec.corpus.sources[0].uri": "claim://texts/a.txt"},
        ("spec.corpus.sources[0].uri", "claim://texts/a.txt", "a path or s3://: this machine has no claims",
         "use a path or s3://, or submit to a cluster"),
    ),
    "a volume on a laptop": (
        {"spec.baseModel": "{volume: {claim: models, path: llama}}"},
        ("spec.baseModel.volume", "volume", "file: {path: ...}: this machine has no claims", "use file: …"),
    ),
}  # fmt: skip


def _matches(said: str, pattern: str) -> bool:
    return said.startswith(pattern[:-1]) if pattern.endswith("…") else said == pattern


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_field_found_expected_and_fix(check, name):
    changes, (field, found, expected, fix) = REFUSALS[name]
    result = check(changes)
    assert not result.valid
    assert result.run is None
    (problem,) = result.problems
    assert problem.field == field
    assert _matches(problem.found, found), problem.found
    assert _matches(problem.expected, expected), problem.expected
    assert _matches(problem.fix, fix), problem.fix
    assert "\n" not in str(problem)


def test_the_minimal_and_the_full_manifest_are_valid(minimal, full):
    for document, local in ((minimal, True), (minimal, None), (full, False), (full, None)):
        result = validate(document, local=local)
        assert result.problems == ()
        assert result.warnings == ()
        assert result.run == ContinualRun.model_validate(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.replay": "{ratio: 0}"},
        {**REPLAY, "spec.replay.ratio": "0"},
        {**REPLAY, "spec.replay.ratio": "0.0"},
        {"spec.replay": "{ratio: 0.5, fromRun: {path: runs/base}}"},
        {"spec.replay": "null"},
        {**INFINITE, "spec.schedule.anneal": "{length: 40%}", "spec.schedule.warmup": "0"},
        {**INFINITE, "spec.schedule.cooldown": "{length: 0, decay: InverseSqrt, timescale: 3}"},
        {**STABLE, "spec.schedule.warmup": "80%"},
        {"spec.schedule.kind": "Constant", "spec.schedule.warmup": "100%"},
        {"spec.schedule.decay": "InverseSqrt", "spec.schedule.timescale": "3"},
        {"spec.schedule.finalLearningRate": "0"},
        {"spec.budget": "{epochs: 0.5}"},
        {"spec.budget.tokens": "2.5e6"},
        {"spec.training.globalBatchTokens": "16K", "spec.training.sequenceLength": "100"},
        {"spec.baseModel": "{run: {path: runs/base, checkpoint: 1200}}", "spec.schedule.optimizerState": "Keep"},
        {"spec.baseModel": "{mlflow: {model: m, version: '7'}}"},
        {"spec.baseModel": "{file: {path: ./base}}"},
        {"spec.baseModel.scratch.tokenizer": "{file: ./tok}"},
        {"spec.baseModel.scratch.config.pad_token_id": "null"},
        {"spec.evaluation.sets": "[{name: notes}, {name: wiki, role: Retained, uri: wiki.jsonl.gz}]"},
        {"spec.corpus.sources[0]": "{name: notes, uri: 'hf://datasets/x/y', license: MIT}"},
        {"spec.corpus.sources[0].uri": "file:///data/notes.txt.zst"},
        {"spec.gates": "{maxForgetting: 0.1, onForgetting: Stop}", **REPLAY},
        {"spec.training.microBatchRows": "8"},
    ],
)
def test_these_are_valid_on_a_laptop(check, changes):
    result = check(changes)
    assert result.problems == ()
    assert result.run is not None


LOCAL_FORMS = {
    "spec.baseModel.file": {"spec.baseModel": "{file: {path: ./base}}"},
    "spec.baseModel.run.path": {"spec.baseModel": "{run: {path: runs/base}}"},
    "spec.replay.fromRun.path": {"spec.replay": "{ratio: 0.5, fromRun: {path: runs/base}}"},
    "spec.baseModel.scratch.tokenizer.file": {"spec.baseModel.scratch.tokenizer": "{file: ./tok}"},
    "spec.evaluation.sets[0].uri": {"spec.evaluation.sets": "[{name: wiki, role: New, uri: wiki.jsonl}]"},
    "spec.corpus.sources[0].uri": {"spec.corpus.sources[0].uri": "notes.txt"},
}


@pytest.mark.parametrize("field", LOCAL_FORMS)
def test_a_cluster_refuses_what_only_this_machine_has(check, field):
    changes = {"spec.corpus.sources[0].uri": "s3://bucket/notes.txt", **LOCAL_FORMS[field]}
    (problem,) = check(changes, local=False).problems
    assert problem.field == field
    assert "a cluster cannot read this machine's files" in problem.expected
    assert problem.fix.startswith("use ")
    assert check(changes, local=True).valid
    assert check(changes, local=None).valid


def test_rows_must_fit_the_processes_of_the_cluster(check):
    changes = {"spec.corpus.sources[0].uri": "s3://b/notes.txt", "spec.compute": "{nodes: 3, gpusPerNode: 2}"}
    (problem,) = check(changes, local=False).problems
    assert str(problem) == (
        "spec.training.globalBatchTokens: found 1024, expected rows in a multiple of 6 processes: a multiple of 384; "
        "use 768 or 1152"
    )
    assert check(changes, local=True).valid
    assert check({**changes, "spec.compute": "{nodes: 2, gpusPerNode: 0}"}, local=False).valid


def test_rows_must_fit_the_processes_of_a_local_run(check):
    training = check({}).run.spec.training
    assert not list(batch_problems(training, 1))
    assert not list(batch_problems(training, 16))
    (problem,) = batch_problems(training, 3)
    assert (problem.field, problem.fix) == ("spec.training.globalBatchTokens", "use 960 or 1152")


@pytest.mark.parametrize(
    ("asked", "processes", "expected", "fix"),
    [
        (3, 1, "a divisor of the 16 rows that each process trains on in a step", "use 2 or 4, or Auto"),
        (8, 4, "a divisor of the 4 rows that each process trains on in a step", "use 4, or Auto"),
    ],
)
def test_micro_batches_divide_the_rows_of_a_process(check, asked, processes, expected, fix):
    training = check({"spec.training.microBatchRows": str(asked)}, local=True)
    problems = training.problems if processes == 1 else batch_problems(training.run.spec.training, processes)
    (problem,) = problems
    assert (problem.field, problem.found) == ("spec.training.microBatchRows", str(asked))
    assert (problem.expected, problem.fix) == (expected, fix)
    assert check({"spec.training.microBatchRows": "4"}).valid
    assert check({"spec.training.microBatchRows": "Auto"}).valid


def test_all_problems_come_at_once(yaml):
    document = yaml("""
        apiVersion: rewarm.dev/v1beta1
        metadata: {}
        spec:
          baseModel: {}
          corpus: {sources: [{name: a, uri: a.txt, weight: x}, {name: a, uri: b.txt}, {name: A}]}
          replay: {ratio: 1.2}
          schedule: {kind: Infinite, warmup: 3M, decay: Linear, colour: red}
          budget: {tokens: 2M, epochs: 1}
          training: {sequenceLength: 64, globalBatchTokens: 1000, seed: -1}
          evaluation: {sets: [{name: b, uri: b.txt}]}
        """)
    assert {problem.field for problem in validate(document, local=True).problems} == {
        "apiVersion",
        "kind",
        "metadata.name",
        "spec.baseModel",
        "spec.corpus.sources[0].weight",
        "spec.corpus.sources[1].weight",
        "spec.corpus.sources[1].name",
        "spec.corpus.sources[2].name",
        "spec.corpus.sources[2].uri",
        "spec.corpus.sources[2].weight",
        "spec.replay.ratio",
        "spec.schedule.warmup",
        "spec.schedule.peakLearningRate",
        "spec.schedule.constantLearningRate",
        "spec.schedule.cooldown",
        "spec.schedule.decay",
        "spec.schedule.colour",
        "spec.budget",
        "spec.training.globalBatchTokens",
        "spec.training.seed",
        "spec.evaluation.sets[0].role",
    }


def test_a_broken_field_silences_only_the_rules_that_read_it(check):
    fields = {p.field for p in check({"spec.training.globalBatchTokens": "x", "spec.schedule.warmup": "200%"}).problems}
    assert fields == {"spec.training.globalBatchTokens"}
    fields = {p.field for p in check({"spec.training.seed": "x", "spec.schedule.warmup": "200%"}).problems}
    assert fields == {"spec.training.seed", "spec.schedule.warmup"}


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_a_document_that_is_no_mapping(document):
    (problem,) = validate(document, local=True).problems
    assert (problem.field, problem.expected) == ("", "a ContinualRun manifest: a mapping")


@pytest.mark.parametrize("document", [{}, {"spec": None}, {"spec": 5, "metadata": []}, {"spec": {"replay": 1}}])
def test_hopeless_documents_get_problems_and_no_crash(document):
    result = validate(document, local=False)
    assert {"apiVersion", "kind", "metadata"} <= {problem.field for problem in result.problems}
    assert "spec" in {problem.field.split(".")[0] for problem in result.problems}


def test_a_missing_licence_is_a_warning(check):
    result = check({"spec.corpus.sources[0].license": "null", **REPLAY, "spec.replay.sources[0].license": "null"})
    assert result.valid
    assert result.warnings == (
        "spec.corpus.sources[0].license: found nothing, expected the licence of notes; add license",
        "spec.replay.sources[0].license: found nothing, expected the licence of general; add license",
    )


def test_a_final_rate_of_a_trunk_is_a_warning(check):
    (warning,) = check({**INFINITE, "spec.schedule.finalLearningRate": "1e-5"}).warnings
    assert warning.startswith("spec.schedule.finalLearningRate: without anneal the run ends at constantLearningRate")


def test_a_gate_without_a_set_is_a_warning(check):
    (warning,) = check({"spec.gates": "{maxForgetting: 0.02}"}).warnings
    assert warning == (
        "spec.gates.maxForgetting: no evaluation set has the role Retained, so this gate stays Inconclusive; add one"
    )
    assert check({"spec.gates": "{maxForgetting: 0.02}", **REPLAY}).warnings == ()


def test_a_local_run_names_what_it_has_no_use_for(check, full):
    assert check({}).unused == ()
    assert check({"spec.compute.nodes": "2", "spec.suspend": "true"}).unused == ("spec.compute", "spec.suspend")
    assert validate(full, local=None).unused == CLUSTER_ONLY
    assert validate(full, local=False).unused == ()


def test_what_an_api_server_adds_is_no_problem(check):
    server = {
        "metadata.uid": "abc",
        "metadata.resourceVersion": "'12'",
        "metadata.managedFields": "[]",
        "status": "{summary: Training}",
    }
    assert check(server).valid


def test_json_is_the_contract(check):
    result = check({**REPLAY, "spec.replay.ratio": "1.2"}).to_json()
    assert json.loads(json.dumps(result)) == {
        "valid": False,
        "problems": [
            {
                "field": "spec.replay.ratio",
                "found": "1.2",
                "expected": "0 <= ratio < 1",
                "fix": "change ratio to a number in this range",
            }
        ],
        "warnings": [],
    }
