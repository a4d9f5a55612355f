"""What the two images weigh, layer by layer: `make cluster-images`, then `python benchmarks/images/run.py [--write]`.

Sizes are those of the layers as buildah keeps them, uncompressed; --write puts the table into docs/image.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "cluster"))

from rewarm_bench.pages import replace_in, table
from rewarm_cluster.images import TARGETS, Builder, Layer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "image.md"
MARKS = "<!-- images/run.py writes from here -->", "<!-- to here -->"
HOLDS = {
    "operator": "kopf, Kubernetes and MLflow clients; no torch, no numpy",
    "trainer": "everything that prepares, trains, judges and reports",
}
ON_A_GPU = ("nvidia", "torch", "triton")


def megabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def row(target: str, layers: list[Layer]) -> tuple[str, str, str]:
    """The first layer is the base, the largest of the others the packages, and what is left ours."""
    base, *others = layers
    packages = max(others, key=lambda layer: layer.size)
    ours = sum(layer.size for layer in others) - packages.size
    parts = f"{megabytes(base.size)} base, {megabytes(packages.size)} packages, {megabytes(ours)} ours"
    heavy = [
        below(found) for name in ON_A_GPU for found in packages.files.glob(f"opt/rewarm/lib/*/site-packages/{name}")
    ]
    said = f"; of the packages CUDA, torch and Triton are {megabytes(sum(heavy))}" if heavy else ""
    return f"`{target}`", f"{megabytes(base.size + packages.size + ours)} ({parts}{said})", HOLDS[target]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    builder = Builder(print)
    text = table(("target", "size", "holds"), [row(target, builder.layers(target)) for target in TARGETS])
    print(text)
    if write:
        replace_in(PAGE, *MARKS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
