"""A checkpoint's tensors by name, in one safetensors file or in numbered ones: each tensor whole, in one of them.

    model.safetensors                          written by one process
    model-00001-of-00002.safetensors, ...      one by each process of a sharded run, with Hugging Face's own index

Either can be read by any number of processes, and the model of either by transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rewarm_api.errors import DataError


def part_name(file: str, rank: int, world: int) -> str:
    """`model.safetensors` as the file of one process of several."""
    stem, suffix = file.rsplit(".", 1)
    return file if world == 1 else f"{stem}-{rank + 1:05d}-of-{world:05d}.{suffix}"


def index_name(file: str) -> str:
    return f"{file}.index.json"


def index_of(file: str, names: list[list[str]], total: int) -> bytes:
    """Hugging Face's index of the parts; `names`: the tensors that each process writes. `total`: bytes of all."""
    places = {name: part_name(file, rank, len(names)) for rank, own in enumerate(names) for name in own}
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return json.dumps(value, indent=1).encode()


def parts_of(folder: Path, file: str) -> list[Path]:
    """The files that hold what `file` stands for; none when there are none."""
    alone = folder / file
    stem, suffix = file.rsplit(".", 1)
    return [alone] if alone.exists() else sorted(folder.glob(f"{stem}-[0-9]*-of-[0-9]*.{suffix}"))


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of some safetensors files; each is read when it is asked for, and not kept."""

    def __init__(self, paths: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                opened = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path}: no whole safetensors file ({error})") from error
            self._files.update(dict.fromkeys(opened.keys(), opened))

    @staticmethod
    def of(folder: Path, file: str) -> StoredTensors:
        paths = parts_of(folder, file)
        if not paths:
            raise DataError(f"{folder / file}: missing")
        return StoredTensors(paths)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def type_and_shape(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Of a tensor, as safetensors says it, without reading it."""
        part = self._files[name].get_slice(name)
        return str(part.get_dtype()), tuple(part.get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
