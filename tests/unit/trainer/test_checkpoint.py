"""When a checkpoint is believed: the commit protocol, digests, fall-back, the fence and what is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from work_folders import contents, flip_byte

from rewarm_api.errors import DataError, DependencyError, ManifestError, MissingInputError
from rewarm_trainer.checkpoint import MANIFEST, MARKER, OPTIMIZER, STATE, WEIGHTS, Checkpoints, audit, folder_name
from rewarm_trainer.state import best_step
from rewarm_trainer.storage import LocalStorage, NoConditions

FILES = {WEIGHTS: b"weights" * 50, OPTIMIZER: b"moments" * 50, STATE: b'{"step": 4}', "config.json": b"{}"}


class StopsBefore(LocalStorage):
    """A disk whose machine loses power just before the n-th change."""

    def __init__(self, root: Path, changes: int) -> None:
        super().__init__(root)
        self.left = changes

    def _change(self) -> None:
        if self.left == 0:
            raise PowerCut
        self.left -= 1

    def put(self, key: str, data: bytes) -> None:
        self._change()
        super().put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._change()
        super().put_file(key, path)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._change()
        return super().put_if_absent(key, data)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)

    def delete_prefix(self, prefix: str) -> None:
        self._change()
        for entry in self.list(prefix)[:2]:
            super().delete(entry.key)
        self._change()
        super().delete_prefix(prefix)


class PowerCut(BaseException):
    pass


def opened(root: Path, store: LocalStorage | None = None) -> Checkpoints:
    return Checkpoints(store or LocalStorage(root / "checkpoints"), root / "state" / "staging")


def writer(root: Path, store: LocalStorage | None = None) -> Checkpoints:
    checkpoints = opened(root, store)
    checkpoints.claim({"pid": 1})
    return checkpoints


def commit(checkpoints: Checkpoints, step: int, content: bytes = b"") -> None:
    folder = checkpoints.stage(step)
    for name, data in FILES.items():
        (folder / name).write_bytes(data + content)
    checkpoints.commit(step, step * 256, folder)


def test_what_was_committed_is_found_whole(tmp_path: Path) -> None:
    checkpoints = writer(tmp_path)
    commit(checkpoints, 4)
    warnings: list[str] = []
    found = opened(tmp_path).newest(warnings.append)
    assert found is not None
    assert warnings == []
    assert found.step == 4
    assert {path.name: path.read_bytes() for path in found.folder.iterdir() if path.name in FILES} == FILES
    manifest = (found.folder / MANIFEST).read_bytes()
    assert found.sha256 == hashlib.sha256(manifest).hexdigest()
    assert json.loads((found.folder / MARKER).read_text())["manifest"] == found.sha256
    sizes = {name: entry["size"] for name, entry in json.loads(manifest)["files"].items()}
    assert sizes == {name: len(data) for name, data in FILES.items()}
    assert not list((tmp_path / "state" / "staging").iterdir()), "staged files take space twice"


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert opened(tmp_path).newest(pytest.fail) is None


@pytest.mark.parametrize("file", [WEIGHTS, OPTIMIZER, STATE, "config.json", MANIFEST, MARKER])
def test_one_wrong_bit_anywhere_and_the_previous_one_is_taken_loudly(tmp_path: Path, file: str) -> None:
    checkpoints = writer(tmp_path)
    commit(checkpoints, 4)
    commit(checkpoints, 8)
    flip_byte(tmp_path / "checkpoints" / folder_name(8) / file, 20 if file == MARKER else None)
    warnings: list[str] = []
    found = opened(tmp_path).newest(warnings.append)
    assert found is not None
    assert found.step == 4
    (warning,) = warnings
    assert "checkpoint step-00000008 is not used" in warning
    assert ("manifest" if file == MARKER else file) in warning
    assert "falling back to the one before" in warning
    with pytest.raises(DataError, match="step-00000008"):
        opened(tmp_path).verify(8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    commit(writer(root), 4)
    return root


@settings(deadline=None)
@given(place=st.integers(0, 2**31), bit=st.integers(0, 7))
def test_no_single_bit_of_any_file_goes_unnoticed(whole: Path, place: int, bit: int) -> None:
    files = [path for path in sorted((whole / "checkpoints" / folder_name(4)).iterdir()) if path.name != MARKER]
    path = files[place % len(files)]
    right = path.read_bytes()
    data = bytearray(right)
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(DataError, match="step-00000004"):
        opened(whole).verify(4)
    path.write_bytes(right)
    assert opened(whole).verify(4).step == 4


@pytest.mark.parametrize("harm", ["missing", "longer", "empty"])
def test_a_missing_or_resized_file_is_named(tmp_path: Path, harm: str) -> None:
    checkpoints = writer(tmp_path)
    commit(checkpoints, 4)
    path = tmp_path / "checkpoints" / folder_name(4) / OPTIMIZER
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "empty" else path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=f"{OPTIMIZER}: (missing|0 bytes, the manifest says 350|351 bytes)"):
        checkpoints.verify(4)


def test_without_its_marker_it_does_not_exist(tmp_path: Path) -> None:
    checkpoints = writer(tmp_path)
    commit(checkpoints, 4)
    commit(checkpoints, 8)
    (tmp_path / "checkpoints" / folder_name(8) / MARKER).unlink()
    found = opened(tmp_path).newest(pytest.fail)
    assert found is not None
    assert found.step == 4
    assert [(entry["step"], entry["committed"], entry["reason"]) for entry in audit(tmp_path, verify=True)] == [
        (4, True, ""),
        (8, False, "no COMMITTED marker"),
    ]


def test_none_whole_is_65_and_never_a_silent_start_from_the_base(tmp_path: Path) -> None:
    checkpoints = writer(tmp_path)
    for step in (4, 8):
        commit(checkpoints, step)
        flip_byte(tmp_path / "checkpoints" / folder_name(step) / WEIGHTS)
    warnings: list[str] = []
    with pytest.raises(DataError, match="none of the 2 committed checkpoints is whole; restore one from a backup"):
        opened(tmp_path).newest(warnings.append)
    assert len(warnings) == 2


def changes_of_a_commit(root: Path) -> int:
    store = StopsBefore(root / "checkpoints", 10_000)
    checkpoints = writer(root, store)
    before = store.left
    commit(checkpoints, 4)
    return before - store.left


def test_a_power_cut_at_any_moment_of_a_commit_leaves_the_previous_one(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    total = changes_of_a_commit(tmp_path)
    assert total >= len(FILES) + 2
    for moment in range(total):
        root = tmp_path_factory.mktemp("cut")
        commit(writer(root), 4)
        before = contents(root / "checkpoints" / folder_name(4))
        store = StopsBefore(root / "checkpoints", 10_000)
        checkpoints = writer(root, store)
        store.left = moment
        with pytest.raises(PowerCut):
            commit(checkpoints, 8)
        found = opened(root).newest(pytest.fail)
        assert found is not None
        assert found.step == 4
        assert contents(root / "checkpoints" / folder_name(4)) == before
        again = writer(root)
        commit(again, 8)
        assert again.newest(pytest.fail).step == 8  # type: ignore[union-attr]


def test_a_power_cut_at_any_moment_of_pruning_leaves_no_half_checkpoint_believed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for moment in range(3):
        root = tmp_path_factory.mktemp("prune")
        store = StopsBefore(root / "checkpoints", 10_000)
        checkpoints = writer(root, store)
        commit(checkpoints, 4)
        commit(checkpoints, 8)
        store.left = moment
        with pytest.raises(PowerCut):
            checkpoints.prune(1, best=None)
        for step in opened(root).committed():
            opened(root).verify(step)


def test_what_a_killed_writer_had_staged_is_cleared_by_the_next(tmp_path: Path) -> None:
    checkpoints = writer(tmp_path)
    (checkpoints.stage(4) / WEIGHTS).write_bytes(b"half")
    writer(tmp_path)
    assert not list((tmp_path / "state").rglob(WEIGHTS))


# --- the fence -----------------------------------------------------------------------------------------------------


def test_a_revived_old_writer_can_neither_commit_nor_prune(tmp_path: Path) -> None:
    old = writer(tmp_path)
    commit(old, 4)
    commit(old, 8)
    staged = old.stage(12)
    for name, data in FILES.items():
        (staged / name).write_bytes(data)
    new = Checkpoints(LocalStorage(tmp_path / "checkpoints"), tmp_path / "elsewhere")
    assert new.claim({"pid": 2}) == 2
    before = contents(tmp_path / "checkpoints")
    with pytest.raises(DependencyError, match=r"writer 2 took over from this one \(1\); this one stops") as caught:
        old.commit(12, 3072, staged)
    assert caught.value.exit_code == 75
    with pytest.raises(DependencyError, match="writer 2 took over"):
        old.prune(1, best=None)
    assert contents(tmp_path / "checkpoints") == before
    commit(new, 12)
    assert opened(tmp_path).newest(pytest.fail).step == 12  # type: ignore[union-attr]


def test_a_writer_that_lost_the_fence_between_files_and_marker_commits_nothing(tmp_path: Path) -> None:
    class Overtaken(LocalStorage):
        """Another writer claims the fence while this one's manifest is on its way."""

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if key.endswith(MANIFEST):
                Checkpoints(LocalStorage(tmp_path / "checkpoints"), tmp_path / "elsewhere").claim({"pid": 2})

    old = writer(tmp_path, Overtaken(tmp_path / "checkpoints"))
    with pytest.raises(DependencyError, match="writer 2 took over"):
        commit(old, 4)
    assert opened(tmp_path).newest(pytest.fail) is None


def test_a_writer_that_fails_leaves_alone_what_a_newer_one_is_writing(tmp_path: Path) -> None:
    """Both write step 4; the old one notices late, and must not clear away the files of the new one."""
    new = Checkpoints(LocalStorage(tmp_path / "checkpoints"), tmp_path / "elsewhere")
    written = tmp_path / "checkpoints" / folder_name(4) / WEIGHTS

    class Overtaken(LocalStorage):
        def put_file(self, key: str, path: Path) -> None:
            super().put_file(key, path)
            if key.endswith(STATE):
                new.claim({"pid": 2})
                written.write_bytes(b"of the newer one")

    old = writer(tmp_path, Overtaken(tmp_path / "checkpoints"))
    with pytest.raises(DependencyError, match="writer 2 took over"):
        commit(old, 4)
    assert written.read_bytes() == b"of the newer one"


def test_the_marker_of_an_older_writer_that_woke_up_gives_way(tmp_path: Path) -> None:
    """It passed the fence, froze, and put its marker among the files of the newer writer."""

    class Disturbed(LocalStorage):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if key.endswith(MANIFEST):
                super().put(key.replace(MANIFEST, MARKER), b'{"manifest": "of the older one", "epoch": 1}')

    writer(tmp_path)
    new = writer(tmp_path, Disturbed(tmp_path / "checkpoints"))
    commit(new, 4)
    assert opened(tmp_path).verify(4).step == 4


class Deaf(LocalStorage):
    """A store that passes over conditions."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


class Unable(LocalStorage):
    """A store that knows no conditions, and says so."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        raise NoConditions("501")


@pytest.mark.parametrize(("kind", "why"), [(Deaf, "takes a second write"), (Unable, "refuses conditional writes")])
def test_a_store_without_conditions_is_refused_unless_the_manifest_allows_it(
    tmp_path: Path, kind: type[LocalStorage], why: str
) -> None:
    store = kind(tmp_path / "checkpoints")
    with pytest.raises(ManifestError, match=rf"spec.checkpoints.uri: .*{why}.*singleWriter: true") as caught:
        writer(tmp_path, store)
    assert caught.value.exit_code == 64
    allowed = Checkpoints(store, tmp_path / "staging", single_writer=True)
    allowed.claim({"pid": 1})
    commit(allowed, 4)
    assert allowed.newest(pytest.fail).step == 4  # type: ignore[union-attr]
    again = Checkpoints(store, tmp_path / "staging", single_writer=True)
    assert again.claim({"pid": 2}) > 1


def test_epochs_only_grow_whoever_claims(tmp_path: Path) -> None:
    epochs = [opened(tmp_path).claim({"pid": pid}) for pid in range(12)]
    assert epochs == list(range(1, 13))


# --- what is kept --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=12)
@given(
    steps=st.lists(st.integers(1, 10**9), min_size=1, max_size=5, unique=True),
    keep=st.integers(1, 4),
    best=st.one_of(st.none(), st.integers(0, 5)),
)
def test_the_newest_and_the_best_are_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int, best: int | None
) -> None:
    root = tmp_path_factory.mktemp("keep")
    checkpoints = writer(root)
    steps.sort()
    for step in steps:
        commit(checkpoints, step)
    chosen = None if best is None else steps[best % len(steps)]
    gone = checkpoints.prune(keep, chosen)
    left = sorted({*steps[-keep:]} | ({chosen} if chosen is not None else set()))
    assert checkpoints.committed() == checkpoints.steps() == left
    assert sorted([*left, *gone]) == steps


def look(step: int, *means: float) -> dict[str, object]:
    return {"step": step, "sets": {str(n): {"delta": {"mean": mean}} for n, mean in enumerate(means)}}


def test_the_best_is_the_committed_one_with_the_lowest_mean_delta() -> None:
    baseline = {"step": 0, "sets": {"0": {"delta": None}}}
    looks = [baseline, look(4, -0.5, 0.3), look(8, -0.6, 0.1), look(12, -0.9, 0.5), look(16, -1.0, -1.0)]
    assert best_step({"evaluations": looks}, [4, 8, 12]) == 8
    assert best_step({"evaluations": looks}, [4, 8, 12, 16]) == 16
    assert best_step({"evaluations": looks}, [4, 12]) == 12
    assert best_step({"evaluations": [baseline]}, [4]) is None


# --- listings ------------------------------------------------------------------------------------------------------


def test_a_listing_says_what_is_wrong(tmp_path: Path) -> None:
    checkpoints = writer(tmp_path)
    for step in (4, 8, 12):
        commit(checkpoints, step)
    flip_byte(tmp_path / "checkpoints" / folder_name(8) / WEIGHTS)
    (tmp_path / "checkpoints" / folder_name(12) / MANIFEST).write_bytes(b"\xff\xfe")
    quick = audit(tmp_path, verify=False)
    assert [(each["step"], each["tokens"], each["verified"]) for each in quick] == [
        (4, 1024, None),
        (8, 2048, None),
        (12, None, None),
    ]
    assert quick[0]["size"] == sum(
        path.stat().st_size for path in (tmp_path / "checkpoints" / folder_name(4)).iterdir()
    )
    assert "manifest.json cannot be read" in quick[2]["reason"]
    verified = audit(tmp_path, verify=True)
    assert [each["verified"] for each in verified] == [True, False, False]
    assert [each["reason"] == "" for each in verified] == [True, False, False]
    assert WEIGHTS in verified[1]["reason"]


def test_a_folder_that_is_no_run_is_66(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="not a work folder of a run"):
        audit(tmp_path, verify=False)
    with pytest.raises(MissingInputError, match="no such folder"):
        audit(tmp_path / "nowhere", verify=False)
