"""Where the weights come from: each form of `spec.baseModel` brought to one local folder, and pinned.

A name, branch, alias or `Latest` is resolved once; the pin says what it stood for. Safetensors only: weights in pickle
files (`.bin`) could run code when loaded and are refused. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, DependencyError, ManifestError, MissingInputError, Problem
from rewarm_api.frozen import digest_of
from rewarm_api.pins import Pins
from rewarm_api.snapshot import Plan, SegmentKind, Snapshot
from rewarm_trainer import branch
from rewarm_trainer.checkpoint import Checkpoint, finished_of, open_checkpoints
from rewarm_trainer.claims import claim_path
from rewarm_trainer.earlier import earlier_work
from rewarm_trainer.state import best_step
from rewarm_trainer.workdir import WorkFolder, read_snapshot

_TRIES_AGAINST_PRUNING = 3
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Base:
    """A base model: `folder` holds config, safetensors and tokenizer (None: from scratch); `pin` says what it is."""

    folder: Path | None
    pin: dict[str, Any]

    @property
    def is_run(self) -> bool:
        """A checkpoint of ours: FP32 masters, with the optimizer's state beside them."""
        return bool(self.pin["kind"] == "run")


def locate(snapshot: Snapshot, root: Path, cache: Path, pinned: Mapping[str, Any] | None) -> Base:
    """The base of `snapshot`. `pinned` is what an earlier preparation found: the same bytes are expected again (65)."""
    kind = snapshot.base_model.kind
    return locate_model(kind, snapshot.base_model.options, root, cache, snapshot, pinned)


def locate_model(
    kind: str,
    options: Mapping[str, Any],
    root: Path,
    cache: Path,
    snapshot: Snapshot,
    pinned: Mapping[str, Any] | None,
) -> Base:
    """A model of any of these kinds, for `snapshot`."""
    if pinned and kind == "run" and (folder := branch.kept(str(pinned.get("digest")), cache)):
        return Base(folder, dict(pinned))
    if pinned and kind in ("huggingFace", "mlflow", "run"):
        options = {**options, **pinned.get("resolved", {})}
    base = _KINDS[kind](options, root, cache, snapshot)
    if base.folder and not base.is_run:
        base.pin["exportType"] = stored_type(base.folder)
    if pinned and pinned.get("digest") != base.pin.get("digest"):
        raise DataError(
            f"spec.baseModel: the weights in {base.folder} have digest {base.pin.get('digest')}, this run was started "
            f"from {pinned.get('digest')}; restore them, or start over in a new work folder"
        )
    return base


def _scratch(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    return Base(None, {"kind": "scratch", "digest": digest_of([dict(options), snapshot.training.seed])})


def _file(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    folder = root / str(options["path"])
    return Base(folder, {"kind": "file", "path": str(options["path"]), "digest": folder_digest(folder)})


def _hugging_face(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, revision = str(options["repo"]), options.get("revision")
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except RepositoryNotFoundError as error:
        raise MissingInputError(f"spec.baseModel.huggingFace: no repository {repository} at {revision}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DependencyError(
            f"spec.baseModel.huggingFace: {repository} at {revision} cannot be fetched "
            f"({str(error).strip().splitlines()[0]}); check the network, HF_TOKEN and the revision, then start again"
        ) from error
    pin = {"kind": "huggingFace", "resolved": {"repo": repository, "revision": folder.name}}
    return Base(folder, {**pin, "digest": folder_digest(folder)})


def _s3(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    from rewarm_trainer.storage import open_storage

    uri = str(options["uri"])
    store = open_storage(uri, root=root)
    entries = [entry for entry in store.list("") if "/" not in entry.key]
    if not entries:
        raise MissingInputError(f"spec.baseModel.s3.uri: nothing under {uri}; expected a Hugging Face folder")
    key = hashlib.sha256(json.dumps([uri, sorted((e.key, e.size) for e in entries)]).encode()).hexdigest()[:24]
    folder = cache / "models" / key
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        target = folder / entry.key
        if not target.exists() or target.stat().st_size != entry.size:
            store.get_file(entry.key, target)
    return Base(folder, {"kind": "s3", "uri": uri, "digest": folder_digest(folder)})


def _mlflow(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    from rewarm_trainer.tracking import model_source

    if snapshot.tracking.uri is None:
        raise ManifestError(
            Problem("spec.tracking.uri", "nothing", "the MLflow server that holds the base model", "set tracking.uri")
        )
    version, source = model_source(
        snapshot.tracking.uri, str(options["model"]), options.get("alias"), options.get("version")
    )
    if source.startswith("s3://"):
        folder = _s3({"uri": source}, root, cache, snapshot).folder
    else:
        folder = Path(source.removeprefix("file://"))
    assert folder is not None
    pin = {"kind": "mlflow", "resolved": {"model": options["model"], "version": version, "alias": None}}
    return Base(folder, {**pin, "source": source, "digest": folder_digest(folder)})


def registered(snapshot: Snapshot, root: Path, cache: Path) -> Base:
    """The version that has the run's own alias now (MissingInputError, 66, when none has)."""
    tracking = snapshot.tracking
    return _mlflow({"model": tracking.registered_model, "alias": tracking.promote_alias}, root, cache, snapshot)


def _run(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    path, name = options.get("path"), options.get("name")
    work = earlier_work("spec.baseModel.run", path, name, snapshot, root, cache)
    which = options.get("checkpoint", "Final")
    checkpoint, folder = _within_reach(work, which, cache)
    is_finished = which == "Final" and bool(finished_of(work.root))
    earlier = read_snapshot(work)
    state = checkpoint.state()
    pins = json.loads(work.pins.read_text())
    adapted = {"adapted": True} if earlier.training.lora else {}
    pin = {
        **adapted,
        "exportType": pins["baseModel"].get("exportType", "F32"),
        "sources": {name: pin["digest"] for name, pin in pins["sources"].items()},
        "kind": "run",
        "resolved": {
            **({"path": str(path)} if path else {"name": name}),
            "checkpoint": "Final" if is_finished else checkpoint.step,
        },
        "name": earlier.name,
        "uid": earlier.uid,
        "step": checkpoint.step,
        "tokens": state["tokens"],
        "in_constant_segment": not is_finished and _in_constant_segment(work, earlier, state["tokens"]),
        "digest": "sha256:" + checkpoint.sha256,
    }
    if options.get("anneal"):
        pin |= branch.inherited(snapshot, earlier, Pins.model_validate(pins), state)
    return Base(folder, pin)


def _within_reach(work: WorkFolder, which: str | int, cache: Path) -> tuple[Checkpoint, Path]:
    """A checkpoint and the folder where it stays: a run that still goes on may prune it while it is read."""
    tries = 1 if str(which).isdigit() else _TRIES_AGAINST_PRUNING
    for left in reversed(range(tries)):
        try:
            checkpoint = _choose(work, which)
            if _outcome(work) == "Succeeded":
                return checkpoint, checkpoint.folder
            return checkpoint, branch.keep_copy(checkpoint, cache)
        except DataError:
            if not left or _outcome(work) == "Succeeded":
                raise
    raise AssertionError("unreachable")


def _choose(work: WorkFolder, which: str | int) -> Checkpoint:
    """Final | Latest | Best | a step number, verified byte for byte."""
    checkpoints = open_checkpoints(work.root)
    committed = checkpoints.committed()
    if not committed:
        raise MissingInputError(f"{work.root}: no committed checkpoint; let that run finish, or give another path")
    if str(which).isdigit():
        if int(which) not in committed:
            raise MissingInputError(f"{work.root}: no checkpoint of step {which}; there are {committed}")
        return checkpoints.verify(int(which))
    newest = checkpoints.verify(committed[-1])
    if which == "Best":
        best = best_step(newest.state(), committed)
        return newest if best is None else checkpoints.verify(best)
    if which == "Final":
        _check_finished(work)
        return finished_of(work.root) or newest
    return newest


def _check_finished(work: WorkFolder) -> None:
    """A run that was stopped or failed leaves a report too; its newest checkpoint is not its final one."""
    outcome = _outcome(work)
    if outcome != "Succeeded":
        why = f"its outcome is {outcome}" if outcome else "no report.json"
        raise MissingInputError(
            f"{work.root}: that run has not finished ({why}); start it again until it has, or ask for "
            "checkpoint: Latest"
        )


def _outcome(work: WorkFolder) -> str | None:
    """How a run ended; None while it has no report."""
    return str(json.loads(work.report.read_text())["outcome"]) if work.report.exists() else None


def _in_constant_segment(work: WorkFolder, earlier: Snapshot, tokens: int) -> bool:
    """Whether the run stands in the constant segment of an Infinite schedule: the place to continue from."""
    if earlier.schedule.kind != "Infinite":
        return False
    plan = earlier.plan or Plan.model_validate(json.loads(work.pins.read_text())["plan"])
    return any(
        segment.kind is SegmentKind.CONSTANT and segment.begins < tokens <= segment.ends for segment in plan.segments
    )


def _volume(options: Mapping[str, Any], root: Path, cache: Path, snapshot: Snapshot) -> Base:
    claim, path = str(options["claim"]), str(options.get("path") or "")
    folder = claim_path(f"claim://{claim}/{path}")
    return Base(folder, {"kind": "volume", "claim": claim, "path": path, "digest": folder_digest(folder)})


_KINDS: dict[str, Callable[[Mapping[str, Any], Path, Path, Snapshot], Base]] = {
    "scratch": _scratch,
    "file": _file,
    "huggingFace": _hugging_face,
    "s3": _s3,
    "mlflow": _mlflow,
    "run": _run,
    "volume": _volume,
}


def stored_type(folder: Path) -> str:
    """`F32`, `BF16` or `F16`: the type in which a folder keeps most of its weights, read from the file headers."""
    sizes = {"F32": 0}
    for path in weight_files(folder):
        for name, entry in _header(path).items():
            if name != "__metadata__" and entry["dtype"] in ("F32", "BF16", "F16"):
                begin, end = entry["data_offsets"]
                sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    return max(sizes, key=lambda name: sizes[name])


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: `model.safetensors`, or its numbered shards. Not an optimizer's beside them."""
    return sorted(folder.glob("model*.safetensors"))


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file that is as long as it says (DataError: a torn download, a Git LFS pointer)."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length)) if length < path.stat().st_size else {}
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        if path.stat().st_size == 8 + length + end:
            return header
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DataError(
        f"{path}: {path.stat().st_size} bytes that are no whole safetensors file; fetch it again (a Git LFS pointer is "
        "replaced by `git lfs pull`)"
    )


def folder_digest(folder: Path) -> str:
    """Digest of a model folder: config and safetensors, by name and sha256. Refuses what cannot be a base model."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such base model; expected a Hugging Face folder with model.safetensors")
    weights = weight_files(folder)
    if not weights:
        pickled = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        if pickled:
            raise DataError(
                f"{folder}: weights are in {pickled[0]}, expected safetensors: pickle files can run code when loaded; "
                "convert them with transformers' save_pretrained and point the manifest at the result"
            )
        raise MissingInputError(f"{folder}: no model*.safetensors there; expected a Hugging Face folder with weights")
    if not (folder / "config.json").is_file():
        raise MissingInputError(f"{folder}: no config.json beside the weights; expected a whole Hugging Face folder")
    files = [folder / "config.json", *weights]
    lines = []
    for path in files:
        with open(path, "rb") as file:
            lines.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return digest_of(lines)
