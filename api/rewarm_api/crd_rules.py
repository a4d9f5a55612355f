"""CEL rules of the CRD: the cross-field checks that an API server can make, and immutability (operator.md).

A release never adds a rule that an old, valid object would break. What CEL cannot afford or express stays with
`validate`, which the operator asks too. Messages say what to do, in the words of `rules.py`.
"""

from __future__ import annotations

from rewarm_api import controller_cel
from rewarm_api.cel import CelRule, address, exactly_one, local_only, rule
from rewarm_api.crd_addresses import FOLDER_ADDRESS, INSIDE, INSIDE_FOLDER, NO_USER, SERVER, TEXT_ADDRESS
from rewarm_api.crd_finish import FINISH_RULES
from rewarm_api.fields import NAME_PATTERN
from rewarm_api.pod_rules import (
    CLIMBING,
    CREDENTIAL_ENVIRONMENT,
    GPU_RESOURCES,
    LOADING_ENVIRONMENT,
    RESERVED_ANNOTATIONS,
    RESERVED_ENVIRONMENT,
    RESERVED_PATHS,
    SECRET_ENVIRONMENT,
    SWITCH_VALUES,
    SWITCHES,
)

ALWAYS_MUTABLE = ("suspend", "retries", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
_KIND = "(has(self.kind) ? self.kind : 'Rewarm')"


def immutability(spec_fields: list[str]) -> list[CelRule]:
    """Rules of the root: once status.snapshotDigest is set the experiment stands (suspended compute apart)."""
    digest_removed = (
        "!has(oldSelf.status) || !has(oldSelf.status.snapshotDigest) || "
        "(has(self.status) && has(self.status.snapshotDigest))"
    )
    rules = [
        rule(f"self.metadata.name.matches('{NAME_PATTERN}')", "metadata.name must be a lower-case letter, then at most "
             "39 lower-case letters, digits and inner hyphens: host names derive from it"),
        rule(digest_removed, "status.snapshotDigest stays once it is set", reason="FieldValueForbidden"),
    ]  # fmt: skip
    for name in spec_fields:
        if name == "gates":
            rules += [_frozen(f"gates.{child}") for child in ("maxForgetting", "minGain", "maxNegativeFlips")]
        elif name not in ALWAYS_MUTABLE:
            rules.append(_frozen(name, while_suspended=name == "compute"))
    return rules


def _frozen(path: str, *, while_suspended: bool = False) -> CelRule:
    parent, _, child = path.rpartition(".")

    def has(root: str) -> str:
        inner = f"has({root}.spec.{path})"
        return f"(has({root}.spec.{parent}) && {inner})" if parent else inner

    same = f"({has('self')} == {has('oldSelf')} && (!{has('self')} || self.spec.{path} == oldSelf.spec.{path}))"
    started = "has(oldSelf.status) && has(oldSelf.status.snapshotDigest)"
    expression, message = f"!({started}) || {same}", f"{path} is immutable once the run was resolved; make a new run"
    if while_suspended:
        expression = f"(has(oldSelf.spec.suspend) && oldSelf.spec.suspend) || {expression}"
        message = f"{path} may change only while the run is suspended; set spec.suspend to true first"
    return rule(expression, message, fieldPath=f".spec.{parent or child}", reason="FieldValueForbidden")


_WEIGHTS = rule(
    "!has(self.sources) || self.sources.all(s, has(s.weight)) || !self.sources.exists(s, has(s.weight))",
    "a weight on all sources of a group or on none",
    fieldPath=".sources",
)


def tokens(value: str) -> str:
    """CEL: a quantity as a double."""
    scale = "".join(f"string({value}).endsWith('{suffix}') ? 1e{3 * power} : " for power, suffix in
                    enumerate("KMBT", start=1))  # fmt: skip
    return f"(type({value}) == int ? double({value}) : double(string({value}).find('^[0-9.]+')) * ({scale}1.0))"


def _length(value: str, plan: str) -> str:
    """CEL: a length as a double, percentages rounded down."""
    share = f"double(int(double(string({value}).find('^[0-9.]+')) * {plan} / 100.0))"
    return f"(type({value}) != int && string({value}).endsWith('%') ? {share} : {tokens(value)})"


def _segments_fit() -> CelRule:
    batch, budget = tokens("self.training.globalBatchTokens"), tokens("self.budget.tokens")
    plan = f"(double(int(({budget} + {batch} - 1.0) / {batch})) * {batch})"
    schedule = "self.schedule"
    parts = [
        f"(has({schedule}.warmup) ? {_length(f'{schedule}.warmup', plan)} : double(int({plan} / 100.0)))",
        f"(has({schedule}.decayLength) ? {_length(f'{schedule}.decayLength', plan)} : 0.0)",
        f"(has({schedule}.cooldown) ? {_length(f'{schedule}.cooldown.length', plan)} : 0.0)",
        f"(has({schedule}.anneal) ? {_length(f'{schedule}.anneal.length', plan)} : 0.0)",
    ]
    return rule(
        f"!has(self.budget.tokens) || {' + '.join(parts)} <= {plan}",
        "the segments of the schedule are longer than the plan; shorten one or raise the budget",
        messageExpression=(
            "'warm-up ' + (has(self.schedule.warmup) ? string(self.schedule.warmup) : '1%') + ' and the other segments "
            "are longer than the plan of ' + string(self.budget.tokens) + ' tokens; shorten one or raise the budget'"
        ),
        fieldPath=".schedule",
    )


def _batch_rules() -> list[CelRule]:
    batch = f"int({tokens('self.training.globalBatchTokens')})"
    nodes = "(has(self.compute) && has(self.compute.nodes) ? self.compute.nodes : 1)"
    gpus_given = "has(self.compute) && has(self.compute.gpusPerNode)"
    gpus = f"({gpus_given} && self.compute.gpusPerNode > 0 ? self.compute.gpusPerNode : 1)"
    return [
        rule(
            f"{batch} % self.training.sequenceLength == 0",
            "training.globalBatchTokens must be a multiple of training.sequenceLength",
            fieldPath=".training.globalBatchTokens",
        ),
        rule(
            f"{batch} % self.training.sequenceLength != 0 || "
            f"{batch} / self.training.sequenceLength % ({nodes} * {gpus}) == 0",
            "the rows of training.globalBatchTokens must be a multiple of the processes: nodes x gpusPerNode",
            fieldPath=".training.globalBatchTokens",
        ),
    ]


_SPEC = [
    _segments_fit(),
    *_batch_rules(),
    rule(
        "!has(self.replay) || !has(self.replay.sources) || "
        "self.corpus.sources.all(a, !self.replay.sources.exists(b, a.name == b.name))",
        "names must be unique across corpus and replay; rename one of them",
        fieldPath=".replay.sources",
    ),
    rule(
        "!has(self.evaluation) || !has(self.evaluation.sets) || (has(self.replay) && has(self.replay.fromRun)) || "
        "self.evaluation.sets.all(s, has(s.uri) || self.corpus.sources.exists(c, c.name == s.name) || "
        "(has(self.replay) && has(self.replay.sources) && self.replay.sources.exists(r, r.name == s.name)))",
        "a set without uri must name a source of corpus or replay; name one or add a uri",
        fieldPath=".evaluation.sets",
    ),
    rule(
        "!has(self.schedule.optimizerState) || self.schedule.optimizerState != 'Keep' || has(self.baseModel.run)",
        "Keep only with baseModel.run, which has an optimizer state; use Reset, or continue a run",
        fieldPath=".schedule.optimizerState",
    ),
    rule(
        "!has(self.baseModel.run) || !has(self.baseModel.run.anneal) || !(has(self.schedule.kind) || "
        "has(self.schedule.warmup) || has(self.schedule.decay) || has(self.schedule.decayLength) || "
        "has(self.schedule.timescale) || has(self.schedule.constantLearningRate) || has(self.schedule.cooldown) || "
        "has(self.schedule.anneal) || "
        "(has(self.schedule.optimizerState) && self.schedule.optimizerState != 'Keep'))",
        "a branch (baseModel.run.anneal) takes its schedule from the trunk; leave peakLearningRate and "
        "finalLearningRate, remove the rest",
        fieldPath=".schedule",
    ),
    rule(
        "!has(self.phases) || (has(self.replay) && (has(self.replay.fromRun) || "
        "(has(self.replay.sources) && size(self.replay.sources) > 0))) || "
        "self.phases.all(p, !has(p.replayRatio) || p.replayRatio == 0.0)",
        "a phase with a replayRatio needs replay with sources or fromRun; add spec.replay",
        fieldPath=".phases",
    ),
    rule(
        "!has(self.training.adaptation) || self.training.adaptation != 'LoRA' || "
        "!has(self.schedule.optimizerState) || self.schedule.optimizerState == 'Reset'",
        "new adapters have no moments that a base could hand on; remove optimizerState",
        fieldPath=".schedule.optimizerState",
    ),
    rule(
        "!has(self.training.parallelism) || self.training.parallelism != 'Sharded' || "
        "((!has(self.replay) || !has(self.replay.method) || self.replay.method != 'MetaExperienceReplay') && "
        "(!has(self.evaluation) || !has(self.evaluation.benchmarks) || size(self.evaluation.benchmarks) == 0))",
        "MetaExperienceReplay and benchmarks need a model that is whole; use parallelism Auto, or leave them out",
        fieldPath=".training.parallelism",
    ),
    rule(
        "!has(self.gates) || !has(self.gates.maxNegativeFlips) || (has(self.evaluation) && "
        "has(self.evaluation.benchmarks) && size(self.evaluation.benchmarks) > 0)",
        "maxNegativeFlips counts items of benchmarks; add evaluation.benchmarks, or remove it",
        fieldPath=".gates.maxNegativeFlips",
    ),
    rule(
        "!has(self.gates) || !has(self.gates.onForgetting) || self.gates.onForgetting != 'RaiseReplay' || "
        "(has(self.replay) && (!has(self.replay.ratio) || self.replay.ratio > 0.0))",
        "RaiseReplay needs a replay ratio above 0 to raise; add replay, or use Warn or Stop",
        fieldPath=".gates.onForgetting",
    ),
    *controller_cel.SPEC,
]


def _used_by(field: str, *kinds: str) -> CelRule:
    allowed = " || ".join(f"{_KIND} == '{kind}'" for kind in kinds)
    return rule(
        f"!has(self.{field}) || {allowed}",
        f"{field} belongs to kind {' or '.join(kinds)}; remove it, or choose that kind",
        fieldPath=f".{field}",
    )


def _required_by(field: str, kind: str) -> CelRule:
    return rule(f"{_KIND} != '{kind}' || has(self.{field})", f"kind {kind} requires {field}; add it")


_SCHEDULE = [
    _used_by("finalLearningRate", "Rewarm", "WarmupStableDecay", "Infinite"),
    _used_by("constantLearningRate", "Infinite"),
    _used_by("cooldown", "Infinite"),
    _used_by("anneal", "Infinite"),
    _used_by("decay", "Rewarm", "WarmupStableDecay"),
    _used_by("decayLength", "WarmupStableDecay"),
    _required_by("constantLearningRate", "Infinite"),
    _required_by("cooldown", "Infinite"),
    _required_by("decayLength", "WarmupStableDecay"),
    rule(
        "!has(self.timescale) || (has(self.decay) && self.decay == 'InverseSqrt')",
        "timescale only with decay InverseSqrt",
        fieldPath=".timescale",
    ),
    rule(
        "!has(self.constantLearningRate) || self.constantLearningRate <= self.peakLearningRate",
        "constantLearningRate <= peakLearningRate",
        fieldPath=".constantLearningRate",
    ),
    rule(
        "!has(self.finalLearningRate) || (self.finalLearningRate <= self.peakLearningRate && "
        "(!has(self.constantLearningRate) || self.finalLearningRate <= self.constantLearningRate))",
        "0 <= final <= constant <= peak",
        fieldPath=".finalLearningRate",
    ),
    rule(
        "has(self.finalLearningRate) || !has(self.anneal) || !has(self.constantLearningRate) || "
        "self.peakLearningRate <= self.constantLearningRate * 10.000001",
        "finalLearningRate (default: a tenth of the peak) must be at most constantLearningRate; set it",
    ),
    rule(
        "!has(self.finalLearningRate) || self.finalLearningRate > 0.0 || "
        "!((has(self.decay) && self.decay == 'Exponential') || "
        "(has(self.anneal) && (!has(self.anneal.decay) || self.anneal.decay == 'Exponential')))",
        "an Exponential decay needs finalLearningRate > 0; raise it, or choose another decay",
        fieldPath=".finalLearningRate",
    ),
]

_POD = "spec.compute.podTemplate"
_RESERVED = " || ".join(f"k.startsWith('{prefix}')" for prefix in RESERVED_ANNOTATIONS)
_NO_GPUS = rule(
    f"!self.exists(k, k.matches('{GPU_RESOURCES}'))", "GPUs come from compute.gpusPerNode; remove them here"
)
_POD_RULES: dict[str, list[CelRule]] = {
    _POD: [
        rule(
            "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && "
            "self.volumes.exists(v, v.name == m.name))",
            "a mount must name a volume of this template; add it to volumes",
            fieldPath=".volumeMounts",
        )
    ],
    f"{_POD}.annotations": [
        rule(
            f"!self.exists(k, {_RESERVED})",
            "annotations of rewarm.dev/ and kueue.x-k8s.io/ are the operator's; use queue or topology for Kueue",
        )
    ],
    f"{_POD}.env[]": [
        exactly_one("value", "valueFrom"),
        rule(
            f"self.name in {list(SWITCHES)} || !self.name.matches('{RESERVED_ENVIRONMENT}')",
            "Rewarm or torch's rendezvous sets this variable; remove it",
            fieldPath=".name",
        ),
        rule(
            f"!(self.name in {list(SWITCHES)}) || !has(self.value) || self.value in {list(SWITCH_VALUES)}",
            f"a switch of speed is one of {', '.join(SWITCH_VALUES)}",
            fieldPath=".value",
        ),
        rule(
            f"!self.name.matches('{LOADING_ENVIRONMENT}')",
            "this variable makes pods load other code than their image's; remove it",
            fieldPath=".name",
        ),
        rule(
            f"!self.name.matches('{CREDENTIAL_ENVIRONMENT}')",
            "no AWS_ variable here; put it into a Secret that spec.credentials names",
            fieldPath=".name",
        ),
        rule(
            f"!has(self.value) || !self.name.matches('{SECRET_ENVIRONMENT}')",
            "no secret's value in a manifest; use valueFrom with secretKeyRef",
            fieldPath=".value",
        ),
    ],
    f"{_POD}.volumeMounts[].subPath": [rule(f"!self.matches('{CLIMBING}')", "a path inside the volume, without ..")],
    f"{_POD}.env[].valueFrom": [exactly_one("secretKeyRef", "configMapKeyRef", "fieldRef")],
    f"{_POD}.volumes[]": [
        rule("!self.name.startsWith('rewarm')", "volume names that begin with rewarm are the operator's; rename it",
             fieldPath=".name"),
        rule("!has(self.hostPath)", "hostPath is outside Pod Security restricted; use a persistentVolumeClaim"),
        rule(
            "!has(self.projected) || !has(self.projected.sources) || "
            "!self.projected.sources.exists(s, has(s.serviceAccountToken))",
            "pods of a run get no service account token but Rewarm's own; use a Secret",
        ),
    ],
    f"{_POD}.volumeMounts[].mountPath": [
        rule(f"!self.matches('{RESERVED_PATHS}')", "this path is Rewarm's own; mount the volume elsewhere"),
        rule("!self.matches('/[.]{1,2}(/|$)')", "a path without . and .."),
    ],
    f"{_POD}.resources.requests": [_NO_GPUS],
    f"{_POD}.resources.limits": [_NO_GPUS],
    f"{_POD}.topology": [exactly_one("required", "preferred")],
}  # fmt: skip

RULES: dict[str, list[CelRule]] = {
    "spec": _SPEC,
    "spec.baseModel": [
        exactly_one("huggingFace", "s3", "volume", "file", "mlflow", "run", "scratch"),
        local_only("file", "huggingFace, s3, volume, mlflow or run"),
    ],
    "spec.baseModel.s3.uri": [address("^s3://[^/]+", "s3://BUCKET/prefix/"), NO_USER],
    "spec.baseModel.mlflow": [exactly_one("alias", "version")],
    "spec.baseModel.run": [
        local_only("path", "run: {name: ...}"),
        rule("has(self.name) || has(self.path)", "exactly one of name | path"),
    ],
    "spec.baseModel.scratch.tokenizer": [local_only("file", "vocabularySize")],
    "spec.corpus": [_WEIGHTS],
    "spec.corpus.sources[].uri": [TEXT_ADDRESS, NO_USER, INSIDE],
    "spec.replay": [
        _WEIGHTS,
        exactly_one("ratio", "fromStudy"),
        rule("!(has(self.fromRun) && has(self.sources) && size(self.sources) > 0)", "exactly one of sources | fromRun"),
        rule(
            "(has(self.ratio) && self.ratio == 0.0) || has(self.fromRun) || "
            "(has(self.sources) && size(self.sources) > 0)",
            "exactly one of sources | fromRun when ratio > 0; add sources to replay, or set ratio to 0",
        ),
        rule(
            "!has(self.metaExperience) || (has(self.method) && self.method == 'MetaExperienceReplay')",
            "metaExperience only with method MetaExperienceReplay; remove it, or set the method",
            fieldPath=".metaExperience",
        ),
        *controller_cel.REPLAY,
    ],
    **controller_cel.RULES,
    "spec.replay.sources[].uri": [TEXT_ADDRESS, NO_USER, INSIDE],
    "spec.replay.fromRun": [
        local_only("path", "fromRun: {name: ...}"),
        rule("has(self.name) || has(self.path)", "exactly one of name | path"),
    ],
    "spec.schedule": _SCHEDULE,
    "spec.schedule.cooldown": [
        rule(
            "!has(self.timescale) || (has(self.decay) && self.decay == 'InverseSqrt')",
            "timescale only with decay InverseSqrt",
            fieldPath=".timescale",
        )
    ],
    "spec.training": [
        rule(
            "!has(self.lora) || (has(self.adaptation) && self.adaptation == 'LoRA')",
            "lora only with adaptation LoRA; remove lora, or set adaptation: LoRA",
            fieldPath=".lora",
        ),
        rule(
            "!has(self.adaptation) || self.adaptation != 'LoRA' || !has(self.freeze) || size(self.freeze) == 0",
            "LoRA freezes every weight of the base; remove freeze, or use adaptation: Full",
            fieldPath=".freeze",
        ),
        rule(
            "!has(self.parallelism) || self.parallelism != 'Sharded' || !has(self.adaptation) || "
            "self.adaptation != 'LoRA'",
            "adapters are trained whole on every process; use parallelism Auto, or adaptation: Full",
            fieldPath=".parallelism",
        ),
    ],
    "spec.budget": [exactly_one("tokens", "epochs")],
    "spec.phases": [
        rule(
            "size(self) == 0 || (self.map(p, double(p.share.find('^[0-9.]+'))).sum() > 99.9995 && "
            "self.map(p, double(p.share.find('^[0-9.]+'))).sum() < 100.0005)",
            "the shares of all phases add up to 100%",
        )
    ],
    "spec.evaluation.sets[]": [
        rule("!has(self.uri) || has(self.role)", "a set with a uri needs a role: New or Retained")
    ],
    "spec.evaluation.sets[].uri": [TEXT_ADDRESS, NO_USER, INSIDE],
    "spec.evaluation.benchmarks[]": [
        rule(
            "!has(self.formSelection) || (has(self.forms) && size(self.forms) > 1)",
            "formSelection chooses among two or more forms; add forms, or remove it",
            fieldPath=".formSelection",
        )
    ],
    "spec.evaluation.benchmarks[].tasks[]": [
        rule(
            "!(self.endsWith('.yaml') || self.endsWith('.yml')) || self.startsWith('claim://')",
            "a task's file as claim://NAME/path.yaml: a cluster cannot read this machine's files",
        )
    ],
    "spec.gates": [
        rule(
            "!has(self.onForgetting) || self.onForgetting == 'Warn' || has(self.maxForgetting)",
            "onForgetting watches maxForgetting; add it, or use Warn",
        )
    ],
    "spec.checkpoints.uri": [FOLDER_ADDRESS, NO_USER, INSIDE],
    "spec.tracking.uri": [NO_USER, SERVER],
    "spec.baseModel.volume.path": [INSIDE_FOLDER],
    "spec.cache.uri": [FOLDER_ADDRESS, NO_USER, INSIDE],
    **FINISH_RULES,
    **_POD_RULES,
    "status": [
        rule(
            "!has(oldSelf.snapshotDigest) || "
            "(has(self.snapshotDigest) && self.snapshotDigest == oldSelf.snapshotDigest)",
            "snapshotDigest stays once it is set",
            fieldPath=".snapshotDigest",
            reason="FieldValueForbidden",
        )
    ],
}
"""By place in the schema; `[]` stands for an item of a list."""
