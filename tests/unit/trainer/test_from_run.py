"""replay.fromRun: the rows that an earlier run trained on, each once, and no other."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewarm_api.errors import DataError, ManifestError, MissingInputError
from rewarm_api.pins import Pins
from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.checkpoint import STATE, Checkpoints
from rewarm_trainer.corpus.prepare import prepare
from rewarm_trainer.corpus.source import open_source
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.files import write_bytes, write_json
from rewarm_trainer.from_run import check_tokenizer, earlier_sources, order_of
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.state import TrainState
from rewarm_trainer.workdir import WorkFolder, write_snapshot


def write_texts(path: Path, count: int, seed: int) -> None:
    chosen = random.Random(seed)
    texts = (
        f"{seed}-{n} " + " ".join(chosen.choices(["ka", "lo", "mi", "ru", "te", "sa", "ne"], k=30))
        for n in range(count)
    )
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


class Bench:
    """A folder with a corpus; runs are prepared there and pretend to have trained so many steps."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / "cache"
        write_texts(root / "new.jsonl", 120, seed=1)
        write_texts(root / "old.jsonl", 90, seed=2)

    def snapshot(self, name: str, **changes: Any) -> Snapshot:
        spec: dict[str, Any] = {
            "baseModel": {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}},
            "corpus": {"sources": [{"name": "new", "uri": "new.jsonl"}]},
            "replay": {"ratio": 0.25, "sources": [{"name": "old", "uri": "old.jsonl"}]},
            "schedule": {"peakLearningRate": 1e-3},
            "budget": {"tokens": 4096},
            "training": {"sequenceLength": 16, "globalBatchTokens": 256, "seed": 5},
            "evaluation": {"heldOut": {"minimumDocuments": 8}},
            **changes,
        }
        head = {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": {"name": name}}
        validation = validate({**head, "spec": spec}, local=True)
        assert validation.run is not None, validation.problems
        return resolve(validation.run, uid=name)

    def ran(self, name: str, steps: int, phases: list[Phase] | None = None, **changes: Any) -> tuple[Order, Pins]:
        """A run called `name` after `steps` updates; its order and pins."""
        snapshot = self.snapshot(name, **changes)
        work = WorkFolder(self.root / name)
        earlier = earlier_sources(snapshot, self.root, self.cache)
        pins = prepare(snapshot, root=self.root, cache=self.cache, tokenizer=None, earlier=earlier).pins
        write_json(work.manifest, {"root": str(self.root), "manifest": {}})
        write_snapshot(work, snapshot)
        write_bytes(work.pins, json.dumps(pins.to_json()).encode())
        order = order_of(snapshot, pins, phases or [Phase(0, snapshot.replay.ratio)])
        if steps:
            state = TrainState(experiment=snapshot.digest)
            state.advance(order, pins.plan, steps)
            checkpoints = Checkpoints.of(work, None, self.root)
            checkpoints.claim({})
            folder = checkpoints.stage(steps)
            (folder / STATE).write_text(json.dumps(state.to_json()))
            checkpoints.commit(steps, state.tokens, folder)
        return order, pins

    def rows(self, pins: Pins, order: Order, steps: range, source: str) -> Counter[bytes]:
        """The rows of `source` that these updates drew, as their tokens."""
        whole = open_source(folder_of(pins.sources[source].prepared, "sources", self.cache), source, 16)
        places = [place for step in steps for place in order.rows(step) if place.source == source]
        return Counter(whole.row(place.row).tobytes() for place in places)

    def later(self, name: str = "later", path: str = "first", **changes: Any) -> Snapshot:
        corpus = {"sources": [{"name": "third", "uri": "old.jsonl"}]}
        return self.snapshot(name, corpus=corpus, replay={"ratio": 0.5, "fromRun": {"path": path}}, **changes)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def content(source: Any) -> Counter[bytes]:
    return Counter(source.row(index).tobytes() for index in range(source.rows))


def test_a_run_without_from_run_has_no_earlier_sources(bench: Bench) -> None:
    assert earlier_sources(bench.snapshot("plain"), bench.root, bench.cache) == {}


def test_exactly_the_rows_that_were_trained_on(bench: Bench) -> None:
    order, pins = bench.ran("first", 7)
    sources = earlier_sources(bench.later(), bench.root, bench.cache)
    assert sources.keys() == {"new", "old"}
    for name, source in sources.items():
        seen = bench.rows(pins, order, range(7), name)
        assert content(source) == seen
        assert source.rows == order.trained(7)[name] < pins.sources[name].rows
        assert source.tokens == source.rows * 16 + 1


def test_a_source_seen_more_than_once_is_there_once(bench: Bench) -> None:
    order, pins = bench.ran(
        "first", 60, budget={"tokens": 16_000}, replay={"ratio": 0.0, "sources": [{"name": "old", "uri": "old.jsonl"}]}
    )
    assert order.trained(60)["new"] > pins.sources["new"].rows
    sources = earlier_sources(bench.later(), bench.root, bench.cache)
    assert sources.keys() == {"new"}, "a source that the earlier run never drew from cannot be replayed"
    assert sources["new"].rows == pins.sources["new"].rows
    assert np.unique([source.row(i).tobytes() for source in sources.values() for i in range(source.rows)]).size > 1


def test_rows_that_were_passed_over_are_not_replayed(bench: Bench) -> None:
    phases = [Phase(0, 0.25), Phase(4, 0.25, "diverged", {"new": 24, "old": 8})]
    order, pins = bench.ran("first", 7, phases)
    sources = earlier_sources(bench.later(), bench.root, bench.cache)
    for name, source in sources.items():
        seen = bench.rows(pins, order, range(7), name)
        assert not content(source) - seen, "only rows that were trained on"
        assert content(source) == bench.rows(pins, order, range(4), name)


def test_a_run_that_diverged_at_once_leaves_nothing_to_replay(bench: Bench) -> None:
    bench.ran("first", 7, [Phase(0, 0.25, "diverged", {"new": 24, "old": 8})])
    with pytest.raises(MissingInputError, match=r"first: that run left no row to replay"):
        earlier_sources(bench.later(), bench.root, bench.cache)


def test_an_ascending_phase_is_replayed_once_it_is_whole(bench: Bench) -> None:
    phases = [Phase(0, 0.25, name="a"), Phase(3, 0.25, "planned", name="b", order_by="score", until=6)]
    for name, steps, whole in (("broken", 5, 3), ("complete", 6, 6)):
        order, _ = bench.ran(name, steps, phases)
        sources = earlier_sources(bench.later(path=name), bench.root, bench.cache)
        assert {key: source.rows for key, source in sources.items()} == order.trained(whole)


def test_a_name_of_the_own_corpus_gets_the_earlier_runs_name_before_it(bench: Bench) -> None:
    bench.ran("first", 7)
    snapshot = bench.snapshot("later", replay={"ratio": 0.5, "fromRun": {"path": "first"}})
    sources = earlier_sources(snapshot, bench.root, bench.cache)
    assert sources.keys() == {"first-new", "old"}
    assert [source.name for source in sources.values()] == list(sources)


def test_what_a_replaying_run_saw_can_be_replayed_too(bench: Bench) -> None:
    """first -> second replays first -> third replays second, and with it some of what first saw."""
    bench.ran("first", 7)
    order, pins = bench.ran(
        "second",
        5,
        corpus={"sources": [{"name": "third", "uri": "old.jsonl"}]},
        replay={"ratio": 0.5, "fromRun": {"path": "first"}},
    )
    first = earlier_sources(bench.later(), bench.root, bench.cache)
    sources = earlier_sources(bench.later("last", "second"), bench.root, bench.cache)
    assert sources.keys() == {"second-third", "new", "old"}
    for name in ("new", "old"):
        drawn = Counter(
            first[name].row(place.row).tobytes()
            for step in range(5)
            for place in order.rows(step)
            if place.source == name
        )
        assert 0 < sources[name].rows < first[name].rows
        assert content(sources[name]) == drawn
    assert content(sources["second-third"]) == bench.rows(pins, order, range(5), "third")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"path": "nowhere"}, MissingInputError, r"spec\.replay\.fromRun\.path: .*nowhere: no such folder"),
        ({"path": "prepared"}, MissingInputError, r"prepared: no committed checkpoint; let that run finish"),
        ({"name": "first"}, ManifestError, r"spec\.replay\.fromRun: found no path, expected the work folder"),
    ],
)
def test_a_run_that_cannot_be_replayed_is_named(bench: Bench, given: dict, error: type, message: str) -> None:
    bench.ran("prepared", 0)
    snapshot = bench.later()
    chosen = snapshot.replay.from_run.model_copy(update={"path": None, "name": None, **given})
    snapshot = snapshot.model_copy(update={"replay": snapshot.replay.model_copy(update={"from_run": chosen})})
    with pytest.raises(error, match=message):
        earlier_sources(snapshot, bench.root, bench.cache)


def test_shards_that_are_gone_are_named(bench: Bench) -> None:
    _, pins = bench.ran("first", 7)
    folder = folder_of(pins.sources["new"].prepared, "sources", bench.cache)
    folder.rename(folder.with_name("moved"))
    with pytest.raises(MissingInputError, match=r"the shards of .*first are gone; prepare that run again"):
        earlier_sources(bench.later(), bench.root, bench.cache)


def test_another_sequence_length_is_refused(bench: Bench) -> None:
    bench.ran("first", 7)
    snapshot = bench.later(training={"sequenceLength": 32, "globalBatchTokens": 256})
    with pytest.raises(ManifestError) as caught:
        earlier_sources(snapshot, bench.root, bench.cache)
    (problem,) = caught.value.problems
    assert (problem.field, problem.found) == ("spec.training.sequenceLength", "32")
    assert problem.expected.startswith("16, as in the run that spec.replay.fromRun replays")


def test_rows_of_another_tokenizer_are_refused(bench: Bench) -> None:
    _, pins = bench.ran("first", 7)
    sources = earlier_sources(bench.later(), bench.root, bench.cache)
    check_tokenizer(sources, pins.tokenizer)
    with pytest.raises(DataError, match=r"source 'new' of spec\.replay\.fromRun: its rows were made by tokenizer"):
        check_tokenizer(sources, "sha256:another")
