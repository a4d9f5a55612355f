"""Where `rewarm merge` scores a candidate: on the held-out documents of a run, as that run scored them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewarm_api.pins import Pins
from rewarm_trainer import statistics
from rewarm_trainer.compare import scorer_of
from rewarm_trainer.corpus.sets import open_set
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.keeper import weights_of
from rewarm_trainer.looks import EvaluationSet, Looks
from rewarm_trainer.run import cache_folder
from rewarm_trainer.statistics import Delta
from rewarm_trainer.weights.recipes import plain
from rewarm_trainer.weights.tasting import Taster, plain_names
from rewarm_trainer.weights.tensors import Tensors
from rewarm_trainer.weights.verdict import judged
from rewarm_trainer.workdir import WorkFolder, read_snapshot


@dataclass(frozen=True)
class Bench:
    """A run's documents and baseline, and a model that takes the weights of candidates."""

    run: Path
    looks: Looks
    taster: Taster

    @staticmethod
    def of(run: Path, folder: Path) -> Bench:
        """`folder`: a model of the shape of all candidates."""
        work = WorkFolder(run)
        snapshot, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
        cache = cache_folder(snapshot.cache_uri, work.root)
        sets = {
            chosen.name: EvaluationSet(
                chosen.name,
                chosen.role,
                pins.sets[chosen.name].digest,
                open_set(folder_of(pins.sets[chosen.name].prepared, "sets", cache), chosen.name),
            )
            for chosen in pins.evaluation_sets(snapshot)
        }
        scorer = scorer_of(folder, snapshot, pins)
        model = scorer.losses.model
        looks = Looks(
            sets,
            scorer,
            look_tokens=snapshot.evaluation.look_tokens,
            export_type=torch.float32,  # type of the file that is scored
            state=work.state,
            report=lambda name, done, total: None,
        )
        looks.resume()
        return Bench(run, looks, Taster(model, plain_names(weights_of(model), model), looks, rank=0, world=1))

    def verdict(self, folder: Path, chose: bool) -> dict[str, Any]:
        """Against the run's base, on the documents that chose nothing."""
        scores = self.taster.judge(plain(Tensors(folder, folder.name)))
        result = {}
        for name, chosen in self.looks.sets.items():
            mask = ~self.taster.masks[name] if chose else None
            line = judged(self.looks.baseline_of(name), scores[name], str(chosen.role), mask)
            result[name] = {**line, "verdict": statistics.verdict(Delta.from_json(line["delta"]))}
        return {"judged_by": str(self.run), "sets": result}
