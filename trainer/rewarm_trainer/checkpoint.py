"""When a checkpoint is believed, and how one comes to exist.

Files first, then `manifest.json` with the size and sha256 of each, then the marker `COMMITTED` last; deleting goes the
other way round. A checkpoint without marker, or with one wrong byte, does not exist: the previous good one is taken.
One writer: each start claims the next fence epoch, and only the newest epoch may commit or prune.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, DependencyError, MissingInputError
from rewarm_trainer.faults import reached
from rewarm_trainer.fence import Fence
from rewarm_trainer.files import disk_errors, is_plain_name
from rewarm_trainer.orphans import Orphans
from rewarm_trainer.peers import Alone, Peers
from rewarm_trainer.storage import LocalStorage, Storage, open_storage
from rewarm_trainer.workdir import WorkFolder, read_snapshot

MANIFEST = "manifest.json"
MARKER = "COMMITTED"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FINISHED = "finished"
_NAME = re.compile(r"step-(\d{8,})$")


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its files lie in the local `folder`; `sha256` is that of its manifest."""

    step: int
    folder: Path
    sha256: str
    uri: str

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / STATE).read_text())


@dataclass(frozen=True)
class Entry:
    """What a listing knows of one checkpoint; `reason` says why it is not believed."""

    step: int
    tokens: int | None
    size: int
    committed: bool
    verified: bool | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "size": self.size,
            "committed": self.committed,
            "verified": self.verified,
            "reason": self.reason,
        }


class Checkpoints:
    """All checkpoints of one run, in a folder or a bucket. `scratch` is a local folder for files on their way."""

    def __init__(self, store: Storage, scratch: Path, *, single_writer: bool = False) -> None:
        """`single_writer`: the manifest allows a store that cannot keep a second writer away."""
        self._store = store
        self._scratch = scratch
        self._fence = Fence(store, single_writer)
        self.orphans = Orphans(store)

    @staticmethod
    def of(work: WorkFolder, uri: str | None, root: Path, *, single_writer: bool = False) -> Checkpoints:
        store: Storage = open_storage(uri, root=root) if uri else LocalStorage(work.checkpoints)
        return Checkpoints(store, work.state / "staging", single_writer=single_writer)

    @staticmethod
    def finished(work: WorkFolder, uri: str | None, root: Path) -> Checkpoints:
        """Where the model that `finish` makes is kept: apart from those that a run resumes from."""
        own = f"{uri.rstrip('/')}/{FINISHED}" if uri else str(work.checkpoints / FINISHED)
        return Checkpoints(open_storage(own, root=root), work.state / FINISHED / "staging")

    def uri(self, step: int) -> str:
        return self._store.uri(folder_name(step))

    def steps(self) -> list[int]:
        """Every step that has any file, ascending."""
        matches = (_NAME.match(entry.key.split("/", 1)[0]) for entry in self._store.list("step-"))
        return sorted({int(match.group(1)) for match in matches if match})

    def committed(self) -> list[int]:
        return [step for step in self.steps() if self._store.exists(f"{folder_name(step)}/{MARKER}")]

    # --- the fence -------------------------------------------------------------------------------------------------

    def claim(self, who: dict[str, Any]) -> int:
        """Become the newest writer. Whoever held an older epoch can no longer commit or prune."""
        self.orphans.claimed(self._fence.claim(who))
        # What a killed writer had on its way would lie there for ever, as large as a checkpoint.
        shutil.rmtree(self._scratch, ignore_errors=True)
        return self._fence.epoch

    def check_fence(self) -> None:
        """DependencyError (75) once a newer writer has claimed this run."""
        self._fence.check()

    # --- writing ---------------------------------------------------------------------------------------------------

    def follow(self, epoch: int) -> None:
        """Write under the epoch that rank 0 claimed: for the other ranks of its attempt."""
        self._fence.epoch = epoch

    def place(self, step: int, rank: int = 0) -> Path:
        """Where `stage` makes its folder: processes of one machine share a scratch folder."""
        return self._scratch / (folder_name(step) + (f".{rank}" if rank else ""))

    def stage(self, step: int, rank: int = 0) -> Path:
        """An empty local folder in which the files of a new checkpoint are to be written."""
        folder = self.place(step, rank)
        shutil.rmtree(folder, ignore_errors=True)
        with disk_errors(folder):
            folder.mkdir(parents=True)
        return folder

    def commit(self, step: int, tokens: int, folder: Path, peers: Alone | Peers | None = None) -> Checkpoint:
        """Publish the files of a staged folder: shards, manifest, marker, in this order.

        With `peers` every process gives its own files; rank 0 writes the rest once those of all are durable.
        """
        peers = peers or Alone()
        reached("commit.begin")
        try:
            with disk_errors(folder):
                digest = self._publish(step, tokens, folder, peers)
        except DependencyError:
            if peers.rank == 0:
                self._discard(step)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Checkpoint(step, self._local(step), digest, self.uri(step))

    def _publish(self, step: int, tokens: int, folder: Path, peers: Alone | Peers) -> str:
        """The manifest's digest ('' but on rank 0). The fence is asked before each write: uploads may take minutes."""
        name = folder_name(step)
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

        def begin() -> dict[str, Any]:
            self.check_fence()
            entries = {key: {"size": path.stat().st_size, "sha256": sha256_of(path)} for key, path in paths.items()}
            if peers.rank == 0:
                self.delete(step)
            reached("commit.cleared")
            return entries

        def upload() -> None:
            for key, path in paths.items():
                reached("commit.file")
                self.check_fence()
                self._store.put_file(f"{name}/{key}", path)

        # Nobody writes before all that lay there is gone, and the manifest names nothing that is not durable.
        shares = peers.agree(begin)
        peers.agree(upload)
        if peers.rank:
            return ""
        entries = {key: entry for share in shares for key, entry in sorted(share.items())}
        manifest = json.dumps({"version": 1, "step": step, "tokens": tokens, "files": entries}, indent=1).encode()
        reached("commit.files")
        self.check_fence()
        self._store.put(f"{name}/{MANIFEST}", manifest)
        reached("commit.manifest")
        self.check_fence()
        reached("commit.fenced")
        digest = hashlib.sha256(manifest).hexdigest()
        marker = json.dumps({"manifest": digest, "epoch": self._fence.epoch}).encode()
        if not self._fence.put_new(f"{name}/{MARKER}", marker):
            # Of a writer before us, which froze after its last look at the fence and woke up: the files are ours now.
            self.check_fence()
            self._store.delete(f"{name}/{MARKER}")
            if not self._fence.put_new(f"{name}/{MARKER}", marker):
                raise DependencyError(f"{self.uri(step)}: another writer committed this checkpoint; stopping")
        reached("commit.marker")
        return digest

    def _discard(self, step: int) -> None:
        """Best effort after a failed commit: give the space of the half-written files back. Not those of a newer
        writer, which may be writing the same step by now."""
        try:
            self.check_fence()
            if not self._store.exists(f"{folder_name(step)}/{MARKER}"):
                self._store.delete_prefix(f"{folder_name(step)}/")
        except (OSError, DependencyError):
            return

    def delete(self, step: int) -> None:
        """Marker first: a half-deleted checkpoint must not be believed."""
        self._store.delete(f"{folder_name(step)}/{MARKER}")
        reached("delete.marker")
        self._store.delete_prefix(f"{folder_name(step)}/")

    def prune(self, keep: int, best: int | None, spared: Collection[int] = ()) -> list[int]:
        """Keep the newest `keep`, the best and the spared; returns the steps that went. Only after a newer commit is
        durable."""
        reached("prune.begin")
        committed = self.committed()
        gone = [step for step in committed[:-keep] if step != best and step not in spared]
        self.check_fence()
        for step in gone:
            self.check_fence()
            self.delete(step)
        reached("prune.done")
        self.orphans.sweep(self.check_fence, {folder_name(step) for step in committed})
        return gone

    # --- reading ---------------------------------------------------------------------------------------------------

    def _local(self, step: int) -> Path:
        if isinstance(self._store, LocalStorage):
            return self._store.root / folder_name(step)
        return self._scratch.parent / "fetched" / folder_name(step)

    def verify(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, every byte checked; DataError says what is wrong with it."""
        name, where = folder_name(step), self.uri(step)
        if not self._store.exists(f"{name}/{MARKER}"):
            raise DataError(f"{where}: not committed (no {MARKER} marker)")
        try:
            text = self._store.get(f"{name}/{MANIFEST}")
            marker = json.loads(self._store.get(f"{name}/{MARKER}"))
            digest = hashlib.sha256(text).hexdigest()
            if marker["manifest"] != digest:
                raise DataError(f"{where}/{MANIFEST}: sha256 {digest[:12]}, the marker says {marker['manifest'][:12]}")
            entries = json.loads(text)["files"]
        except (ValueError, KeyError, TypeError, MissingInputError) as error:
            raise DataError(f"{where}: manifest or marker cannot be read ({error})") from error
        folder = self._local(step)
        for file, expected in entries.items():
            if not all(is_plain_name(part) for part in file.split("/")):
                raise DataError(f"{where}/{MANIFEST}: names {file!r}, expected files of the checkpoint itself")
            self._verify_file(f"{name}/{file}", folder / file, expected)
        for stray in sorted(path for path in folder.glob("*.safetensors") if path.name not in entries):
            # Of another writer, or another number of processes: who reads the folder by its names would believe it.
            if isinstance(self._store, LocalStorage):
                raise DataError(f"{stray}: not in {MANIFEST}; another writer left it, so the weights are ambiguous")
            stray.unlink()
        return Checkpoint(step, folder, digest, where)

    @contextmanager
    def _fetching_alone(self) -> Iterator[None]:
        """One download for all processes of this machine: who comes later finds the files."""
        if isinstance(self._store, LocalStorage):
            yield
            return
        self._scratch.parent.mkdir(parents=True, exist_ok=True)
        with open(self._scratch.parent / "fetching", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _verify_file(self, key: str, path: Path, expected: dict[str, Any]) -> None:
        if not isinstance(self._store, LocalStorage) and not _is_file(path, expected):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._store.get_file(key, path)
            except MissingInputError as error:
                raise DataError(f"{self._store.uri(key)}: missing") from error
        if not path.is_file():
            raise DataError(f"{path}: missing")
        size = path.stat().st_size
        if size != expected["size"]:
            raise DataError(f"{path}: {size} bytes, the manifest says {expected['size']}")
        digest = sha256_of(path)
        if digest != expected["sha256"]:
            raise DataError(f"{path}: sha256 {digest[:12]}, the manifest says {expected['sha256'][:12]}")

    def newest(
        self, warn: Callable[[str], None], passed_over: Callable[[int], None] = lambda step: None
    ) -> Checkpoint | None:
        """The newest checkpoint whose every byte is right; says loudly which ones were passed over.

        None when nothing was ever committed. DataError (65) when there are commits but none is good: a run never
        starts again silently from the base.
        """
        committed = self.committed()
        for step in reversed(committed):
            try:
                with self._fetching_alone():
                    return self.verify(step)
            except DataError as error:
                warn(f"checkpoint {folder_name(step)} is not used: {error}; falling back to the one before")
                passed_over(step)
        if committed:
            raise DataError(
                f"{self._store.uri('')}: none of the {len(committed)} committed checkpoints is whole; "
                "restore one from a backup, or start over in a new work folder"
            )
        return None

    def release(self, step: int) -> None:
        """The local copy of a checkpoint that came from a bucket is not needed any more."""
        if not isinstance(self._store, LocalStorage):
            shutil.rmtree(self._local(step), ignore_errors=True)

    def release_all(self) -> None:
        """No local copy is needed any more."""
        if not isinstance(self._store, LocalStorage):
            shutil.rmtree(self._scratch.parent / "fetched", ignore_errors=True)

    def audit(self, verify: bool) -> list[Entry]:
        """Every checkpoint as it stands; with `verify` every byte is read."""
        begun = self.orphans.begun()
        steps = {*self.steps(), *(int(match.group(1)) for match in map(_NAME.match, begun) if match)}
        return [self._entry(step, verify, begun[folder_name(step)]) for step in sorted(steps)]

    def _entry(self, step: int, verify: bool, begun: int) -> Entry:
        name = folder_name(step)
        size = sum(entry.size for entry in self._store.list(f"{name}/"))
        committed = self._store.exists(f"{name}/{MARKER}")
        tokens, verified, reason = None, None, "" if committed else f"no {MARKER} marker"
        if begun and not committed:
            reason += f"; {begun} writes begun and never ended"
        try:
            tokens = int(json.loads(self._store.get(f"{name}/{MANIFEST}"))["tokens"])
        except (ValueError, KeyError, TypeError, MissingInputError) as error:
            reason = reason or f"{MANIFEST} cannot be read ({error})"
        if verify and committed:
            try:
                self.verify(step)
                verified = True
            except DataError as error:
                verified, reason = False, str(error)
            self.release(step)
        return Entry(step, tokens, size, committed, verified, reason)


def _is_file(path: Path, expected: dict[str, Any]) -> bool:
    """Whether a file with this content is there."""
    return path.is_file() and path.stat().st_size == expected["size"] and sha256_of(path) == expected["sha256"]


def audit(workdir: Path, verify: bool) -> list[dict[str, Any]]:
    """Every checkpoint of a work folder (or of a bare folder of checkpoints) as JSON, for `rewarm checkpoints`."""
    return [entry.to_json() for entry in open_checkpoints(workdir).audit(verify)]


def open_checkpoints(workdir: Path) -> Checkpoints:
    """The checkpoints of a run's work folder, wherever its snapshot keeps them."""
    work = WorkFolder(workdir)
    if work.snapshot.exists():
        snapshot = read_snapshot(work)
        return Checkpoints.of(work, snapshot.checkpoints.uri, manifest_root(work))
    if not work.root.is_dir():
        raise MissingInputError(f"{workdir}: no such folder; give the work folder of a run")
    if work.checkpoints.is_dir() or any(_NAME.match(path.name) for path in work.root.iterdir()):
        root = work.checkpoints if work.checkpoints.is_dir() else work.root
        return Checkpoints(LocalStorage(root), root.parent / ".rewarm-staging")
    raise MissingInputError(
        f"{workdir}: not a work folder of a run (no snapshot.json); give the folder of `rewarm run`"
    )


def finished_of(workdir: Path) -> Checkpoint | None:
    """The finished model of a run, verified; None for a run without `finish`, or one that is not there yet."""
    work = WorkFolder(workdir)
    if not work.snapshot.exists():
        return None
    snapshot = read_snapshot(work)
    if not snapshot.finish:
        return None
    kept = Checkpoints.finished(work, snapshot.checkpoints.uri, manifest_root(work))
    steps = kept.committed()
    return kept.verify(steps[-1]) if steps else None


def manifest_root(work: WorkFolder) -> Path:
    """The folder that relative paths of the manifest are relative to, remembered when the run was made."""
    if work.manifest.exists():
        return Path(json.loads(work.manifest.read_text())["root"])
    return work.root
