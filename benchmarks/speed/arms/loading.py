"""Our loader over prepared shards, and where no prepared corpus is: sparse files of any size."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from rewarm_trainer.batches import Loader
from rewarm_trainer.corpus.shards import SHARD_TOKENS, Index, Shard, ShardWriter, write_index
from rewarm_trainer.corpus.source import open_source
from rewarm_trainer.memory import keep_freed_memory
from rewarm_trainer.order import Order, Phase

EOS = 0


def index_of(shards: tuple[Shard, ...], tokens: int) -> Index:
    return Index("uint16", "bench", EOS, None, 1, tokens, 60_000, shards)


class Rewarm:
    """`sources` prepared sources of `rows` rows each, mixed evenly."""

    def __init__(self, sources: int, rows: int, length: int, batch: int) -> None:
        # As a run does before anything else.
        keep_freed_memory()
        self._folder = Path(tempfile.mkdtemp(prefix="rewarm-speed-"))
        self._length, self._batch = length, batch
        self._names = [f"s{number}" for number in range(sources)]
        random = np.random.default_rng(0)
        for name in self._names:
            place = self._folder / name
            place.mkdir()
            with ShardWriter(place, "uint16") as writer:
                writer.write(random.integers(0, 60_000, rows * length + 1))
            write_index(place, index_of(tuple(writer.shards), rows * length + 1))
        self._step = 0
        self._open()

    def _open(self) -> None:
        opened = {name: open_source(self._folder / name, name, self._length) for name in self._names}
        self._loader = Loader(opened, eos=EOS, masking=True, rank=0, world=1, rows=self._batch)
        self._order = Order(
            [Phase(0, 0.0)],
            seed=1,
            rows_per_step=self._batch,
            sizes={name: source.rows for name, source in opened.items()},
            corpus=dict.fromkeys(opened, 1.0),
            replay={},
        )

    def read(self, batches: int) -> None:
        for _ in range(batches):
            self._loader.batch(self._order, self._step)
            self._step += 1

    def resume(self) -> None:
        """Everything opened again, and the next batch."""
        self._loader.close()
        self._open()
        self.read(1)

    def anywhere(self, tokens: int) -> dict[str, float]:
        """Seconds to open sparse shards of `tokens` tokens, and to have the first batch, and one in the middle."""
        place = self._folder / "sparse"
        if not place.exists():
            place.mkdir()
            sizes = [SHARD_TOKENS] * (tokens // SHARD_TOKENS) + [tokens % SHARD_TOKENS]
            shards = tuple(Shard(f"{number:05d}.bin", size, "") for number, size in enumerate(sizes) if size)
            for shard in shards:
                with (place / shard.file).open("wb") as stream:
                    stream.truncate(2 * shard.tokens)
            (place / "index.json").write_text(json.dumps(index_of(shards, tokens).to_json()))
        began = time.perf_counter()
        source = open_source(place, "s", self._length)
        loader = Loader({"s": source}, eos=EOS, masking=True, rank=0, world=1, rows=self._batch)
        order = Order(
            [Phase(0, 0.0)], seed=1, rows_per_step=self._batch, sizes={"s": source.rows}, corpus={"s": 1.0}, replay={}
        )
        loader.batch(order, 0)
        first = time.perf_counter() - began
        began = time.perf_counter()
        loader.batch(order, source.rows // self._batch // 2)
        middle = time.perf_counter() - began
        loader.close()
        return {"start": first, "anywhere": middle}
