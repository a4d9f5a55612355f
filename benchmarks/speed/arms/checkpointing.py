"""A training arm that commits checkpoints as a run does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rewarm_trainer.checkpoint import Checkpoints, folder_name
from rewarm_trainer.keeper import Keeper
from rewarm_trainer.state import TrainState
from rewarm_trainer.storage import LocalStorage
from speed.arms.training import Rewarm


class Committing(Rewarm):
    def __init__(self, work: dict[str, int], *, bf16: bool, compiled: bool) -> None:
        super().__init__(work, bf16=bf16, compiled=compiled)
        self._folder = Path(tempfile.mkdtemp(prefix="rewarm-speed-"))
        self._told: list[dict[str, Any]] = []
        checkpoints = Checkpoints(LocalStorage(self._folder / "store"), self._folder / "staging")
        checkpoints.claim({"pid": 0})
        self._keeper = Keeper(
            checkpoints=checkpoints,
            model=self._losses.model,
            optimizer=self._updater._optimizer,
            load_base=lambda: TrainState("bench"),
            companions=lambda: [],
            config=lambda folder: None,
            keep=1,
            rank=0,
            world=1,
            listen=self._told.append,
            before_commit=lambda: None,
        )

    def commit(self) -> None:
        """The training thread's part: what it waits for."""
        self._committed = self._step
        self._keeper.commit(TrainState("bench", step=self._step, tokens=self._step), wait=False)

    def written(self) -> dict[str, float]:
        """Bytes of the newest checkpoint and of the state that it holds, and how long writing took."""
        self._keeper.wait()
        folder = self._folder / "store" / folder_name(self._committed)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        parameters = sum(each.numel() for each in self._losses.model.parameters())
        return {"bytes": size, "state": 12 * parameters, "seconds": self._told[-1]["seconds"]}
