"""Whether a repeated corpus was learned by heart: held-out loss that rises again while training loss goes on falling.

    loss ^  training --.__                    held out --.    .-'*  rise: the last look minus the lowest one, paired
         |                ''--..__                        '*-'     per document, with its interval
         +-----------------------------> tokens              lowest

Guo et al. 2024 (2406.14833), section 4: a subset of the right size for several epochs helps, too small a one overfits
in its later epochs. A source counts as overfitted when all of this holds:
  1. it was passed through more than once,
  2. the whole interval of its rise lies above 0,
  3. its training loss is lower at the run's end than around the lowest look, over a tenth of the plan each.
Without 3 a rise is no overfitting (a learning rate that went up, or another mixture). The lowest of many looks is lower
than what it stands for, so a rise is biased upward as a peak is; documents are the same, so only the model moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer.statistics import Delta, paired_delta


@dataclass
class Lowest:
    """The lowest look of each set so far: step, tokens and summed nats of each document looked at."""

    looks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rise(
        self, name: str, step: int, tokens: int, nats: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> dict[str, Any] | None:
        """How far this look lies above the lowest before it, as JSON with the `since` tokens of that one; None for a
        new lowest. Remembers the lowest. Nats and labels by document; a full look is compared on the documents of the
        other. A look that is not finite is no lowest.
        """
        past = self.looks.get(name)
        # After a resume or a rollback a look may be taken again: what came after it is not known yet.
        if past is not None and past["step"] >= step:
            past = None
        if past is not None:
            count = len(past["nats"])
            delta = paired_delta(nats[:count] - np.asarray(past["nats"]), labels[:count])
            if not delta.mean < 0:
                return {**delta.to_json(), "since": past["tokens"]}
        if np.isfinite(nats).all():
            self.looks[name] = {"step": step, "tokens": tokens, "nats": nats.tolist()}
        return None


@dataclass(frozen=True)
class Overfit:
    """One source that was learned by heart."""

    source: str
    epochs: float
    rise: Delta
    since: int
    training: float

    def sentence(self) -> str:
        """For the report's warnings."""
        rise = f"{self.rise.mean:.4f} (95 % {self.rise.low:+.4f} to {self.rise.high:+.4f}) nats per token"
        return (
            f"source {self.source!r} overfits: in {self.epochs:.1f} passes its held-out loss rose by {rise} above its "
            f"lowest at {self.since} tokens, while its training loss fell by {-self.training:.4f}; train fewer epochs, "
            "or take more text"
        )


def overfitted(
    last_look: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], epochs: Mapping[str, float], plan_tokens: int
) -> list[Overfit]:
    """The corpus sources that overfit, by name.

    `last_look`: as the state has it; `steps`: log records with `tokens` and `losses` by source; `epochs`: passes
    through each corpus source.
    """
    found = []
    for name, passes in sorted(epochs.items()):
        rise = (last_look["sets"].get(name) or {}).get("rise")
        if passes <= 1 or not rise:
            continue
        delta, tenth = Delta.from_json(rise), plan_tokens / 10
        fell = _mean(steps, name, plan_tokens - tenth, plan_tokens) - _mean(
            steps, name, rise["since"] - tenth, rise["since"]
        )
        if delta.low > 0 and fell < 0:
            found.append(Overfit(name, passes, delta, rise["since"], fell))
    return found


def _mean(steps: Sequence[Mapping[str, Any]], name: str, start: float, end: float) -> float:
    """Mean training loss of a source in (start, end] tokens; nan without a logged step there."""
    losses = [step["losses"][name] for step in steps if start < step["tokens"] <= end and name in step["losses"]]
    return math.fsum(losses) / len(losses) if losses else math.nan
