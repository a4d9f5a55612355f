"""A part of a source instead of all of it: of a chosen size, at random or the best documents first (2406.14833)."""

from __future__ import annotations

from typing import Literal

from rewarm_api.fields import Percent, Spec, TokenQuantity


class Subset(Spec):
    """Which of a source's training documents are trained on: exactly one of share and tokens."""

    share: Percent | None = None
    """Share of the training text, by its UTF-8 bytes."""
    tokens: TokenQuantity | None = None
    """About so many tokens, counted as a quarter of the UTF-8 bytes: the choice knows no tokenizer."""
    by: Literal["Random", "HighestScore", "LowestScore"] = "Random"
    """Which documents come first. Random is the same choice for every seed, and a larger subset holds a smaller one."""
