"""The region that a law was fitted on, and the refusal to leave it without being told to. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rewarm_api.errors import ManifestError, Problem

_ROUNDING = 1e-9

Span = tuple[float, float]


class ExtrapolationError(ManifestError):
    """A law was asked about a place that no run has measured around (64)."""


@dataclass(frozen=True)
class Hull:
    """The measured spans: shares of new text, tokens trained, parameters of the model. Borders belong to it."""

    shares: Span
    tokens: Span
    parameters: Span

    def outside(self, share: float, tokens: float, parameters: float) -> tuple[Problem, ...]:
        """One problem for each quantity that lies outside; empty inside."""
        asked = (
            ("share of new text", share, self.shares, "add such a ratio to grid.replayRatios"),
            ("tokens", tokens, self.tokens, "add such a budget to grid.budgets"),
            ("parameters", parameters, self.parameters, "add such a model to grid.models"),
        )
        return tuple(
            Problem(words, f"{value:.6g}", f"{low:.6g} to {high:.6g}, as measured", f"{fix}, or allow extrapolation")
            for words, value, (low, high), fix in asked
            if not low - _ROUNDING * abs(low) <= value <= high + _ROUNDING * abs(high)
        )

    def check(self, share: float, tokens: float, parameters: float, *, extrapolate: bool = False) -> None:
        """Raises ExtrapolationError (64) outside the hull, unless `extrapolate`."""
        problems = self.outside(share, tokens, parameters)
        if problems and not extrapolate:
            raise ExtrapolationError(problems)
