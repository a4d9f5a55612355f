"""What may move a run's mixture while it trains, by rules that the phase log records."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rewarm_api.fields import Number, Percent, Spec


class Adaptive(Spec):
    """A feedback controller that moves the replay ratio so that forgetting stays within a budget."""

    forgetting_budget: Annotated[Number, Field(gt=0)]
    """Largest loss increase on any Retained set to aim for, in nats per token."""
    minimum: Percent
    """Lowest replay ratio."""
    maximum: Percent
    """Highest replay ratio, below 100%; maxRepeats may bound it further."""
