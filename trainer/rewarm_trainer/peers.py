"""Processes that do one thing together, off the training thread: all of it is done, or all of them know that it is not.

They meet in a group of their own, so that nothing they wait for can be mistaken for a collective of training. Only
JSON travels: nothing that is received is ever run. Imports torch only where there are several processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rewarm_api.errors import DependencyError, RewarmError


class PeerError(DependencyError):
    """Another process could not do its part; it ends this one with the same code and cause."""

    def __init__(self, rank: int, told: dict[str, Any]) -> None:
        super().__init__(f"process {rank} could not do its part of a checkpoint: {told['error']}")
        self.exit_code, self.cause = int(told["code"]), str(told["cause"])


class Alone:
    """One process: what it does is what everyone does."""

    rank, world = 0, 1

    def agree(self, work: Callable[[], Any]) -> list[Any]:
        return [work()]


class Peers:
    """Every rank has one, and calls `agree` as often as the others."""

    def __init__(self, patience: timedelta) -> None:
        """A collective of training: every rank makes it at the same place."""
        import torch

        self._torch = torch
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=patience)

    def agree(self, work: Callable[[], Any]) -> list[Any]:
        """Do `work` and wait for all; what each one's gave, by rank. Where one fails, all raise."""
        failure: BaseException | None = None
        try:
            message = {"value": work()}
        except BaseException as error:
            failure = error
            code, cause = getattr(error, "exit_code", RewarmError.exit_code), getattr(error, "cause", RewarmError.cause)
            message = {"error": str(error) or type(error).__name__, "code": code, "cause": cause}
        everyone = self._gather(message)
        if failure is not None:
            raise failure
        for rank, found in enumerate(everyone):
            if "error" in found:
                raise PeerError(rank, found)
        return [found["value"] for found in everyone]

    def _gather(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        torch = self._torch
        data = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        torch.distributed.all_gather(sizes, torch.tensor([len(data)]), group=self._group)
        padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        padded[: len(data)] = data
        texts = [torch.empty_like(padded) for _ in range(self.world)]
        torch.distributed.all_gather(texts, padded, group=self._group)
        return [json.loads(bytes(text[: int(size)].numpy())) for text, size in zip(texts, sizes, strict=True)]
