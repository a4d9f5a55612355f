"""Campaign `storage`: S3 that stumbles, two writers at once, a disk that is full, bytes that rot.

Most faults strike one request of one commit, so that every request of the protocol meets every kind; some strike a real
run at random. What is committed is the checkpoint of a real run.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rewarm_world import World
from services import S3

from campaigns.s3_proxy import EXPIRED, KINDS, Fault, S3Proxy
from campaigns.tally import Tally
from campaigns.world import compare, disk, end_of, undisturbed
from rewarm_api.errors import DependencyError, RewarmError
from rewarm_cluster.processes import Processes
from rewarm_trainer.checkpoint import MANIFEST, MARKER, Checkpoints, folder_name
from rewarm_trainer.files import copy_files
from rewarm_trainer.patience import VARIABLE
from rewarm_trainer.storage import LocalStorage, S3Storage, Storage

STEP, NEXT = 2, 4
BUCKET = "campaign"
TIMEOUT_SECONDS = 2.0


def fill(checkpoints: Checkpoints, source: Path, step: int) -> None:
    """Commit the files of a real checkpoint as those of `step`."""
    folder = checkpoints.stage(step)
    copy_files((path for path in sorted(source.iterdir()) if path.name not in (MANIFEST, MARKER)), folder)
    checkpoints.commit(step, step * 256, folder)


class Place:
    """Checkpoints in a store that faults strike: `STEP` is committed in peace, `NEXT` is not."""

    def __init__(self, store: Storage, scratch: Path, source: Path) -> None:
        self.store, self.source = store, source
        self.writer = Checkpoints(store, scratch / "writer")
        self.reader = Checkpoints(store, scratch / "reader" / "staging")
        self.writer.claim({"pid": os.getpid()})
        fill(self.writer, source, STEP)

    def commit(self) -> str:
        """Commit `NEXT`; what stood in the way, empty when nothing did."""
        try:
            fill(self.writer, self.source, NEXT)
            return ""
        except DependencyError as error:
            return str(error)

    def newest(self) -> tuple[int, int]:
        """The step that a resume would begin from, read and verified anew, and how many were passed over."""
        passed: list[str] = []
        try:
            found = self.reader.newest(passed.append)
        except RewarmError:
            return 0, len(passed)
        self.reader.release_all()
        return (found.step if found else 0), len(passed)

    def again(self) -> None:
        self.store.delete_prefix(f"{folder_name(NEXT)}/")


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment of this process, put back at the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def every_request(place: Place, proxy: S3Proxy, tally: Tally, kinds: tuple[str, ...], stride: int = 1) -> None:
    """Each kind of fault at each request of a commit, and of a resume: both must go through."""
    proxy.clear()
    place.commit()
    writes = len(proxy.requests)
    proxy.clear()
    place.newest()
    reads = len(proxy.requests)
    for number, kind in enumerate(kinds):
        for at in range(number % stride, writes, stride):
            strike(place, proxy, tally, kind, at, committing=True)
        for at in range(number % stride, reads, stride):
            strike(place, proxy, tally, kind, at, committing=False)


def strike(place: Place, proxy: S3Proxy, tally: Tally, kind: str, at: int, *, committing: bool) -> None:
    """One fault at request `at`."""
    if committing:
        proxy.clear()
        place.again()
    seen = iter(range(10_000))
    proxy.clear()
    fault = proxy.add(Fault(kind, lambda method, path: next(seen) == at))
    problems = []
    if committing and (stood := place.commit()):
        problems.append(f"request {at} of a commit: {stood}")
    step, passed = place.newest()
    if step != NEXT or passed:
        problems.append(f"request {at}: a resume would begin from {step}, {passed} passed over")
        tally.checkpoints_lost += passed
    if fault.struck:
        tally.struck(kind, problems)


def expired(place: Place, proxy: S3Proxy, tally: Tally, times: int) -> None:
    """Credentials that run out during a commit: it ends at once, the last commit stands, new ones go on."""
    for at in range(times):
        proxy.clear()
        place.again()
        seen = iter(range(10_000))
        fault = proxy.add(Fault(EXPIRED, lambda method, path, seen=seen, at=at: next(seen) >= at, None))
        stood = place.commit()
        proxy.clear()
        problems = [] if "ExpiredToken; check the credentials" in stood else [f"expected a refusal, found {stood!r}"]
        if place.newest() != (STEP, 0):
            problems.append(f"the commit before is not what a resume begins from: {place.newest()}")
        if place.commit() or place.newest() != (NEXT, 0):
            problems.append("new credentials did not help")
        if fault.struck:
            tally.struck(EXPIRED, problems)


def races(store: Storage, scratch: Path, source: Path, tally: Tally, times: int) -> None:
    """Two writers begin at once: they claim the same epoch and commit the same step. One may be told to stop; what is
    committed is whole."""
    for number in range(times):
        step = 100 + 2 * number
        together = threading.Barrier(2)

        def begin(side: int, number: int = number, step: int = step, together: threading.Barrier = together) -> str:
            writer = Checkpoints(store, scratch / f"race-{number}-{side}")
            together.wait()
            writer.claim({"pid": side})
            try:
                fill(writer, source, step)
            except DependencyError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(begin, range(2)))
        problems = [] if "" in outcomes else [f"none of 2 writers committed: {outcomes}"]
        try:
            Checkpoints(store, scratch / "judge" / "staging").verify(step)
        except RewarmError as error:
            problems.append(str(error))
            tally.checkpoints_lost += 1
        tally.struck("two writers", problems)


def rot(place: Place, tally: Tally) -> None:
    """One bit flipped in each kind of file, each file missing, a marker without manifest: the one before is taken."""
    place.commit()
    name = folder_name(NEXT)
    right = {entry.key: place.store.get(entry.key) for entry in place.store.list(f"{name}/")}
    for key, data in sorted(right.items()):
        for kind in ("flipped bit", "file missing"):
            if kind == "file missing":
                place.store.delete(key)
            else:
                place.store.put(key, flipped(data, 20 if key.endswith(MARKER) else len(data) // 2))
            step, passed = place.newest()
            # Without its marker it is no checkpoint, so nothing was passed over.
            told = 0 if kind == "file missing" and key.endswith(MARKER) else 1
            wrong = [] if (step, passed) == (STEP, told) else [f"{key}: begins from {step}, {passed} passed over"]
            tally.struck("marker without manifest" if key.endswith(MANIFEST) and "miss" in kind else kind, wrong)
            place.store.put(key, data)
    if place.newest() != (NEXT, 0):
        tally.problems.append("put right again, it was not taken")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def full_disk(root: Path, source: Path, tally: Tally, levels: int) -> None:
    """A disk with room for ever less of a checkpoint: at every write it may be full."""
    size = sum(path.stat().st_size for path in source.iterdir())
    if os.geteuid() == 0:
        with disk(root / "small", 8 * size + (1 << 20)) as folder:
            place = Place(LocalStorage(folder / "checkpoints"), folder / "state", source)
            place.commit()
            for level in range(levels):
                place.again()
                ballast = folder / "ballast"
                # Staged and published it takes twice its size on the way.
                room = 2 * size * level // levels
                status = os.statvfs(folder)
                ballast.write_bytes(b"\0" * max(0, status.f_bavail * status.f_frsize - room))
                full(place, tally, ballast.unlink)
        return
    place = Place(LocalStorage(root / "small" / "checkpoints"), root / "small" / "state", source)
    for level in range(levels):
        place.again()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        largest = max(path.stat().st_size for path in source.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest * level // levels, before[1]))
        full(place, tally, lambda before=before: resource.setrlimit(resource.RLIMIT_FSIZE, before))


def full(place: Place, tally: Tally, make_room) -> None:  # noqa: ANN001
    """Commit on a full disk: 75 with a sentence, the one before stands, and with room it goes on."""
    try:
        stood = place.commit()
    except OSError as error:
        stood = f"not named: {error}"
    make_room()
    problems = [] if "disk full" in stood else [f"expected a full disk, found {stood!r}"]
    if place.newest() != (STEP, 0):
        problems.append(f"the commit before is not what a resume begins from: {place.newest()}")
    if place.commit() or place.newest() != (NEXT, 0):
        problems.append("with room again it did not commit")
    tally.struck("disk full", problems)


def run_on_a_bad_store(world: World, proxy: S3Proxy, access: dict[str, str], tally: Tally, seed: int) -> None:
    """A real run whose store fails one request in ten: it must end as the one on a good disk."""
    name = f"stumbling-{seed}"
    manifest = world.manifest(name, checkpoints={"uri": f"s3://{BUCKET}/{name}/", "every": "10%", "keep": 10})
    draw = random.Random(seed)
    kinds = [kind for kind in KINDS if kind != "timeout"]
    proxy.clear()
    faults = [proxy.add(Fault(kind, lambda method, path: draw.random() < 0.1 / len(kinds), None)) for kind in kinds]
    ended = end_of(world.fork("run", manifest, "--workdir", world.root / name, **access))
    proxy.clear()
    problems = [] if ended.code == 0 else [f"{name} ended with {ended.code}: {ended.said[-300:]}"]
    if not problems:
        local = Path(tempfile.mkdtemp(dir=world.root))
        store = S3Storage(f"s3://{BUCKET}/{name}/")
        for entry in store.list("step-"):
            store.get_file(entry.key, local / "checkpoints" / entry.key)
        for file in ("log.jsonl", "report.json"):
            shutil.copy(world.root / name / file, local / file)
        problems = compare(local, undisturbed_twin(world)).problems
    for number, fault in enumerate(fault for fault in faults if fault.struck):
        tally.struck(f"{fault.kind}, in a run", problems if number == 0 else problems[:1], fault.struck)


def undisturbed_twin(world: World):  # noqa: ANN201
    from campaigns.world import Twin

    return Twin(world.root / "twin", 40)


def campaign(world: World, *, count: int = 100, seed: int = 0) -> Tally:
    """At least `count` faults; how many it takes for every kind to meet every request."""
    tally = Tally("storage: S3 and local disk")
    manifest = world.manifest("source", checkpoints__every="10%", checkpoints__keep=10)
    source = undisturbed(world, manifest).folder / "checkpoints" / folder_name(40)
    processes = Processes(world.root / "servers", detached=False)
    server = S3(world.root / "s3", "127.0.0.1", processes)
    server.client.create_bucket(Bucket=BUCKET)
    try:
        with S3Proxy(server.url) as proxy:
            access = {**server.environment, "AWS_ENDPOINT_URL": proxy.url}
            with variables(**access):
                on_s3(world, proxy, access, source, tally, max(1, 200 // count), seed)
        with variables(**server.environment):
            rot(Place(S3Storage(f"s3://{BUCKET}/rot/"), world.root / "rot-s3", source), tally)
    finally:
        processes.stop("s3")
    rot(Place(LocalStorage(world.root / "rot" / "checkpoints"), world.root / "rot" / "state", source), tally)
    full_disk(world.root, source, tally, 12)
    tally.notes.append("The S3 server is versitygw behind a proxy; each kind of fault met each request of a commit and "
                       "of a resume")  # fmt: skip
    return tally


def on_s3(
    world: World, proxy: S3Proxy, access: dict[str, str], source: Path, tally: Tally, stride: int, seed: int
) -> None:
    place = Place(S3Storage(f"s3://{BUCKET}/faults/"), world.root / "faults", source)
    every_request(place, proxy, tally, tuple(kind for kind in KINDS if kind != "timeout"), stride)
    expired(place, proxy, tally, 6)
    with variables(**{VARIABLE: str(TIMEOUT_SECONDS)}):
        every_request(place, proxy, tally, ("timeout",), 4 * stride)
    races(S3Storage(f"s3://{BUCKET}/races/"), world.root / "races", source, tally, 10)
    for number in range(2):
        run_on_a_bad_store(world, proxy, access, tally, seed + number)
