"""Weights of rows by their loss within each batch (Sow et al. 2025, 2502.06733)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.fields import Length, Number, Spec


class SampleWeights(Spec):
    """Weights of the rows of each global batch, by their own losses."""

    strategy: Literal["LinUpper", "Quadratic", "Extremes"]
    """LinUpper takes weight from rows with a low loss, Quadratic from both ends, Extremes from the middle."""
    temperature: Annotated[Number, Field(ge=0.01)] = 1.0
    """Strength: small is selective, large is uniform (the paper's r: 1 for small models, 0.4 for large ones)."""
    uniform: Length = "5%"
    """Tokens or percent of the plan at the start in which all rows weigh the same."""
