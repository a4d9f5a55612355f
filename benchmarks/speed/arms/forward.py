"""What the looks of a run cost in forward passes alone, on the run's own prepared sets."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rewarm_api.pins import Pins
from rewarm_trainer import evaluation
from rewarm_trainer.corpus.sets import open_set
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.memory import keep_freed_memory
from rewarm_trainer.model import TokenLosses, load_model, machine_of
from rewarm_trainer.session import EVALUATION_BATCH_TOKENS
from rewarm_trainer.techniques import precision


class Forward:
    def __init__(self, workdir: str, cache: str, length: int, look_tokens: int) -> None:
        import torch

        keep_freed_memory()
        pins = Pins.model_validate(json.loads((Path(workdir) / "pins.json").read_text()))
        newest = sorted((Path(workdir) / "checkpoints").glob("step-*"))[-1]
        self._losses = TokenLosses(load_model(newest))
        self._sets = [open_set(folder_of(pin.prepared, "sets", Path(cache)), name) for name, pin in pins.sets.items()]
        self._bos, self._eos, self._length, self._tokens = pins.bos, pins.eos, length, look_tokens
        self._precision = precision(None, machine_of(torch.device("cpu")))

    def look(self) -> float:
        """Seconds of the passes of one look."""
        began = time.perf_counter()
        for each in self._sets:
            evaluation.score(
                self._losses,
                each,
                bos=self._bos,
                eos=self._eos,
                length=self._length,
                batch_tokens=EVALUATION_BATCH_TOKENS,
                precision=self._precision,
                count=evaluation.within(each, self._bos, self._tokens),
            )
        return time.perf_counter() - began
