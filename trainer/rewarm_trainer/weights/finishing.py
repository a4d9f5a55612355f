"""The end of a run with `finish`: last checkpoint -> steps -> finished model -> verdict -> a checkpoint of its own.

The finished model is committed like any checkpoint, under `finished/` beside the others, with `finish.json`: what was
done and what it showed. A run that is killed in between does it again from the last checkpoint, with the same result;
once committed it is found again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError
from rewarm_trainer.benchmarks import Benchmarks
from rewarm_trainer.checkpoint import STATE, Checkpoint, Checkpoints, folder_name, manifest_root
from rewarm_trainer.evaluation import Scores
from rewarm_trainer.files import write_json_file
from rewarm_trainer.looks import Looks
from rewarm_trainer.prepared_run import Run
from rewarm_trainer.session import Session
from rewarm_trainer.weights.fit import check_fit
from rewarm_trainer.weights.merge import lineage_of, write_model
from rewarm_trainer.weights.named import folder_of_base, locate_named
from rewarm_trainer.weights.recipes import Recipe, plain
from rewarm_trainer.weights.retention import average_steps
from rewarm_trainer.weights.steps import Kitchen, chooses, recipe_of
from rewarm_trainer.weights.tasting import Taster, plain_names
from rewarm_trainer.weights.tensors import Tensors
from rewarm_trainer.weights.verdict import judged, step_words

RECORD = "finish.json"


class Finisher:
    """Finishes one run. Every rank has one and calls `run`; rank 0 does the work, the others help to score."""

    def __init__(
        self,
        session: Session,
        looks: Looks,
        benchmarks: Benchmarks | None,
        checkpoints: Checkpoints,
        step: int,
        *,
        asked_to_stop: Callable[[], bool],
        alive: Callable[[], None],
        listen: Callable[[dict[str, Any]], None],
    ) -> None:
        self._run: Run = session.run
        self._session, self._looks, self._checkpoints, self._step = session, looks, checkpoints, step
        self._benchmarks = benchmarks
        self._alive, self._listen = alive, listen
        self._finished = Checkpoints.finished(
            self._run.work, self._run.snapshot.checkpoints.uri, manifest_root(self._run.work)
        )
        self._folder = self._run.work.state / "finish"
        self._asked_to_stop = asked_to_stop
        self._known: dict[Path, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """The record of what was done and what it showed, the same on every rank."""
        if self._session.rank != 0:
            record: dict[str, Any] = self._taster.follow()
            return record
        raw = self._checkpoints.verify(self._step)
        record = self._found(raw) or self._made(raw)
        self._checkpoints.release_all()
        shutil.rmtree(self._folder, ignore_errors=True)
        tokens = self._step * self._run.plan.tokens_per_step
        facts = {key: record[key] for key in ("sets", "checkpoint", "benchmarks") if key in record}
        self._listen({"event": "finished", "step": self._step, "tokens": tokens, **facts})
        done: dict[str, Any] = self._taster.end(record)
        return done

    @cached_property
    def _taster(self) -> Taster:
        # Only once training is over: from here on the session's model holds candidates.
        session = self._session
        return Taster(
            session.model,
            plain_names(session.plain_weights(), session.model),
            self._looks,
            rank=session.rank,
            world=session.world,
            asked_to_stop=self._asked_to_stop,
            benchmarks=self._benchmarks,
        )

    def check(self) -> None:
        """Before training: the named models are there, as pinned, and fit the base (65, 66). Rank 0 only."""
        base = self._session.base
        models = [Tensors(folder_of_base(found, field), field) for field, found in self._named.items()]
        if base.folder is not None:
            models.insert(0, Tensors(base.folder, "the base model"))
        if len(models) > 1:
            check_fit(models)

    @cached_property
    def _named(self) -> dict[str, Any]:
        run = self._run
        return locate_named(run.snapshot, manifest_root(run.work), run.cache, run.pins.finish)

    def _found(self, raw: Checkpoint) -> dict[str, Any] | None:
        """The record of an earlier start that got as far as the commit."""
        if self._step not in self._finished.committed():
            return None
        try:
            done = self._finished.verify(self._step)
        except DataError:
            return None
        record: dict[str, Any] = json.loads((done.folder / RECORD).read_text())
        if record["raw"]["sha256"] != raw.sha256:
            return None
        return {**record, "checkpoint": {"uri": done.uri, "step": done.step, "sha256": done.sha256}}

    def _made(self, raw: Checkpoint) -> dict[str, Any]:
        began = time.monotonic()
        snapshot = self._run.snapshot
        if chooses(snapshot.finish):
            self._taster.check_choice()
        raw_scores = self._raw_scores(raw)
        self._finished.claim({"finish": snapshot.uid})
        current, lines = self._labelled(raw), []
        staged = self._finished.stage(self._step)
        for number, step in enumerate(snapshot.finish):
            recipe = recipe_of(number, step, current, self._kitchen(raw))
            is_last = number == len(snapshot.finish) - 1
            current = self._baked(recipe, staged if is_last else self._folder / f"{number}-{step.kind}", step.kind)
            lines.append(lineage_of(recipe, self._known))
            self._listen({"event": "finish", "number": number, "words": step_words(lines[-1]), **lines[-1]})
        record = self._record(raw, raw_scores, current, lines)
        record["seconds"] = round(time.monotonic() - began, 3)
        write_json_file(staged / RECORD, record)
        write_json_file(staged / STATE, raw.state())
        self._checkpoints.check_fence()
        done = self._finished.commit(self._step, self._step * self._run.plan.tokens_per_step, staged)
        self._finished.prune(1, None)
        return {**record, "checkpoint": {"uri": done.uri, "step": done.step, "sha256": done.sha256}}

    def _labelled(self, checkpoint: Checkpoint) -> Tensors:
        self._known[checkpoint.folder] = {"step": checkpoint.step, "checkpoint": "sha256:" + checkpoint.sha256}
        return Tensors(checkpoint.folder, folder_name(checkpoint.step))

    def _kitchen(self, raw: Checkpoint) -> Kitchen:
        def last_checkpoints(count: int) -> list[Tensors]:
            steps = average_steps(self._run.plan, raw.step, count)
            return [self._labelled(raw if step == raw.step else self._checkpoints.verify(step)) for step in steps]

        def base() -> Tensors:
            found = self._session.base
            folder = folder_of_base(found, "spec.baseModel")
            self._known[folder] = {"base": found.pin}
            return Tensors(folder, "the base model")

        named = {}
        for field, found in self._named.items():
            folder = folder_of_base(found, field)
            self._known[folder] = {"field": field, "model": found.pin}
            named[field] = Tensors(folder, found.pin.get("name") or field)
        gates = self._run.snapshot.gates
        return Kitchen(last_checkpoints, named, base, self._taster.taste, gates.max_forgetting if gates else None)

    def _baked(self, recipe: Recipe, folder: Path, label: str) -> Tensors:
        """The model of a step, in float32: rounding to the type of export comes last."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_model(recipe, folder, "F32", self._alive)
        return Tensors(folder, label)

    def _raw_scores(self, raw: Checkpoint) -> dict[str, Scores]:
        """Of the last checkpoint, as its final look left them; scored again where that is lost."""
        folder = self._run.work.state / "raw"
        found = {name: folder / f"{name}.json" for name in self._looks.sets}
        try:
            return {name: Scores.from_json(json.loads(path.read_text())) for name, path in found.items()}
        except (FileNotFoundError, ValueError, KeyError):
            scores = self._taster.judge(plain(self._labelled(raw)))
            self._looks.write_documents(scores, "raw")
            return scores

    def _record(
        self, raw: Checkpoint, raw_scores: dict[str, Scores], model: Tensors, lines: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The verdict of both models on the same documents, none of which chose anything."""
        scores = self._taster.judge(plain(model))
        self._looks.write_documents(scores, "final")
        tasks = self._taster.ask()
        choosing = chooses(self._run.snapshot.finish)

        def sets(of: dict[str, Scores]) -> dict[str, Any]:
            return {
                name: judged(
                    self._looks.baseline_of(name),
                    of[name],
                    str(chosen.role),
                    ~self._taster.masks[name] if choosing else None,
                    self._looks.serving_of(name),
                )
                for name, chosen in self._looks.sets.items()
            }

        return {
            "version": 1,
            "steps": lines,
            "selection": {name: int(mask.sum()) for name, mask in self._taster.masks.items()} if choosing else None,
            "sets": sets(scores),
            "benchmarks": tasks,
            "raw": {"step": raw.step, "uri": raw.uri, "sha256": raw.sha256, "sets": sets(raw_scores)},
        }
