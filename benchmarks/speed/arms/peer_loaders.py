"""Loaders of peers, each as its documentation mixes sources and resumes; rows of the same size, one process.

None of them derives labels or positions of documents, which ours does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class _Peer:
    """Rows in memory-mapped files or in the peer's own format, made before anything is measured."""

    def __init__(self, sources: int, rows: int, length: int, batch: int) -> None:
        self.batch = batch
        self.folder = Path(tempfile.mkdtemp(prefix="rewarm-speed-"))
        random = np.random.default_rng(0)
        self.paths = []
        for number in range(sources):
            path = self.folder / f"s{number}"
            self.write(path, random.integers(0, 60_000, (rows, length + 1)))
            self.paths.append(path)
        self._state: Any = None
        self.iterator: Iterator[Any] = self.open(None)

    def write(self, path: Path, rows: np.ndarray) -> None:
        np.save(path.with_suffix(".npy"), rows.astype(np.uint16))

    def open(self, state: Any) -> Iterator[Any]:
        """Batches from the beginning, or from a state on."""
        raise NotImplementedError

    def state(self) -> Any:
        raise NotImplementedError

    def read(self, batches: int) -> None:
        for _ in range(batches):
            try:
                next(self.iterator)
            except StopIteration:
                self.iterator = self.open(None)
                next(self.iterator)

    def resume(self) -> None:
        self.iterator = self.open(self.state())
        self.read(1)


class _Rows:
    def __init__(self, path: Path) -> None:
        self._rows = np.load(path.with_suffix(".npy"), mmap_mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._rows[index].astype(np.int64)


class Torchdata(_Peer):
    """torchdata.nodes: a weighted sampler over map-style nodes."""

    def open(self, state: Any) -> Iterator[Any]:
        import torch
        from torch.utils.data import RandomSampler
        from torchdata.nodes import Batcher, Loader, Mapper, MapStyleWrapper, MultiNodeWeightedSampler

        nodes = {}
        for path in self.paths:
            rows = _Rows(path)
            nodes[path.name] = MapStyleWrapper(rows, RandomSampler(rows))
        mixed = MultiNodeWeightedSampler(
            nodes, dict.fromkeys(nodes, 1.0), stop_criteria="CYCLE_UNTIL_ALL_DATASETS_EXHAUSTED"
        )
        node = Mapper(Batcher(mixed, self.batch), lambda rows: torch.from_numpy(np.stack(rows)))
        self._loader = Loader(node)
        if state is not None:
            self._loader.load_state_dict(state)
        return iter(self._loader)

    def state(self) -> Any:
        return self._loader.state_dict()


class DatasetsMap(_Peer):
    """datasets: arrow tables, interleaved, shuffled; it has no state of its own, so it goes to the place again."""

    def write(self, path: Path, rows: np.ndarray) -> None:
        from datasets import Dataset

        Dataset.from_dict({"tokens": rows.astype(np.uint16)}).save_to_disk(str(path))

    def open(self, state: Any) -> Iterator[Any]:
        from datasets import interleave_datasets, load_from_disk

        parts = [load_from_disk(str(path)).shuffle(seed=1).with_format("numpy") for path in self.paths]
        even = [1.0 / len(parts)] * len(parts)
        self._mixed = interleave_datasets(parts, probabilities=even, seed=1, stopping_strategy="all_exhausted")
        self._taken = state or 0
        mixed = self._mixed.select(range(self._taken, len(self._mixed))) if self._taken else self._mixed
        return self._counted(iter(mixed.iter(self.batch)))

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for each in batches:
            self._taken += self.batch
            yield each

    def state(self) -> Any:
        return self._taken


class DatasetsIterable(DatasetsMap):
    """datasets: the same as a stream, shuffled in a buffer, with its own state."""

    def open(self, state: Any) -> Iterator[Any]:
        from datasets import interleave_datasets, load_from_disk

        parts = [
            load_from_disk(str(path)).to_iterable_dataset(num_shards=8).shuffle(seed=1, buffer_size=1000)
            for path in self.paths
        ]
        even = [1.0 / len(parts)] * len(parts)
        mixed = interleave_datasets(parts, probabilities=even, seed=1, stopping_strategy="all_exhausted")
        self._stream = mixed.with_format("numpy")
        if state is not None:
            self._stream.load_state_dict(state)
        return iter(self._stream.iter(self.batch))

    def state(self) -> Any:
        return self._stream.state_dict()


class Streaming(_Peer):
    """mosaicml-streaming: MDS shards, even proportions, its own loader and state."""

    def write(self, path: Path, rows: np.ndarray) -> None:
        from streaming import MDSWriter

        with MDSWriter(out=str(path), columns={"tokens": f"ndarray:uint16:{rows.shape[1]}"}) as writer:
            for row in rows:
                writer.write({"tokens": row.astype(np.uint16)})

    def open(self, state: Any) -> Iterator[Any]:
        from streaming import Stream, StreamingDataLoader, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        streams = [Stream(local=str(path), proportion=1.0 / len(self.paths)) for path in self.paths]
        dataset = StreamingDataset(streams=streams, shuffle=True, batch_size=self.batch)
        self._loader = StreamingDataLoader(dataset, batch_size=self.batch, num_workers=0)
        if state is not None:
            self._loader.load_state_dict(state)
        return iter(self._loader)

    def state(self) -> Any:
        return self._loader.state_dict()


class Litdata(_Peer):
    """litdata: optimised chunks, a combined dataset, its own loader and state."""

    def write(self, path: Path, rows: np.ndarray) -> None:
        from litdata.streaming.cache import Cache

        path.mkdir()
        cache = Cache(str(path), chunk_bytes="16MB")
        for number, row in enumerate(rows):
            cache[number] = {"tokens": row.astype(np.uint16)}
        cache.done()
        cache.merge()

    def open(self, state: Any) -> Iterator[Any]:
        from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset

        parts = [StreamingDataset(str(path), shuffle=True) for path in self.paths]
        mixed = CombinedStreamingDataset(parts, weights=[1.0 / len(parts)] * len(parts), iterate_over_all=False)
        self._loader = StreamingDataLoader(mixed, batch_size=self.batch, num_workers=0)
        if state is not None:
            self._loader.load_state_dict(state)
        return iter(self._loader)

    def state(self) -> Any:
        return self._loader.state_dict()
