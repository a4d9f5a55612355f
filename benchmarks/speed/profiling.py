"""Where a step's time goes on a CPU, by torch's own profiler. Peers import it too: nothing but torch is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

GROUPS = (
    ("attention", ("attention",)),
    ("matrix products", ("::mm", "::addmm", "::bmm", "::baddbmm", "::linear", "mkl", "onednn", "mkldnn")),
    ("optimizer", ("adamw", "optimizer.step", "_foreach_", "clip_grad")),
    ("kernels of the compiler", ("compiled", "fxgraph", "cpp_fused", "torchdynamo", "inductor")),
)
OTHER = "the rest"
SPENT = (*(group for group, _ in GROUPS), OTHER)
"""The columns of a table of shares."""


def group_of(name: str) -> str:
    """Of an operation by its name in the profile; the first group that it is in."""
    lowered = name.lower()
    return next((group for group, words in GROUPS if any(word in lowered for word in words)), OTHER)


def shares(run: Callable[[], None]) -> dict[str, float]:
    """Milliseconds of the calling and the backward thread in each group while `run` runs; more than the wall's time
    where both were busy."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    spent = dict.fromkeys(SPENT, 0.0)
    for each in found.key_averages():
        spent[group_of(each.key)] += each.self_cpu_time_total / 1000
    return spent


def spent_line(spent: Mapping[str, float], passes: int = 1) -> tuple[str, ...]:
    """Milliseconds of one pass in each group, as a table has them."""
    return tuple(f"{spent[group] / passes:,.0f}" for group in SPENT)


def most(spent: Mapping[str, float], ratios: Mapping[str, float]) -> str:
    """What there is to gain, in words: attention and products come from one library for every trainer. `ratios`: how
    many times as fast as each peer it was measured."""
    gain = sum(spent.values()) / (spent["attention"] + spent["matrix products"])
    beside = ", ".join(f"{gain * ratio:.2f} x {name}" for name, ratio in ratios.items())
    return (
        f"{100 / gain:.0f} % are attention and matrix products, which all take from the same library; with all the "
        f"rest gone it would be {gain:.2f} times as fast: {beside}."
    )
