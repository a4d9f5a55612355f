"""The D-CPT law: Que et al. 2024, 2406.01375 (form and constraints from independent transcriptions [S4], the
sufficient form of the constraints derived [D], Huber's delta recalled [R]). Pure.

    L(N, D, r) = E + A / N^alpha + B r^eta / D^beta + C / (r + epsilon)^gamma

r is the share of the text that is scored: of new text for a New set, of replay for a Retained one. Every law made here
keeps the paper's requirements for 0 <= r <= 1 and D >= the least measured D: the loss falls in N, in D and in r, and in
D the faster the larger r is. At fixed r it is Chinchilla's law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from rewarm_trainer.laws.fitting import HUBER_DELTA, best_of

_STARTS, _POLISHED = 256, 6
# Bounds of alpha, eta - 1, beta, gamma, epsilon.
_LOW = np.array([0.02, 1e-3, 0.02, 0.02, 1e-3])
_HIGH = np.array([4.0, 8.0, 4.0, 4.0, 2.0])
_TINY, _HUGE = 1e-9, 1e4


@dataclass(frozen=True)
class DcptLaw:
    """The nine parameters. N and D count in `parameters_unit` and `tokens_unit`: what A and B mean depends on them."""

    e: float
    a: float
    alpha: float
    b: float
    eta: float
    beta: float
    c: float
    gamma: float
    epsilon: float
    parameters_unit: float = 1.0
    tokens_unit: float = 1.0

    def __call__(self, parameters: float, tokens: float, share: float) -> float:
        """Loss in nats per token; finite for a share of 0 too."""
        return float(
            self.e
            + self.a / (parameters / self.parameters_unit) ** self.alpha
            + self.b * share**self.eta / (tokens / self.tokens_unit) ** self.beta
            + self.c / (share + self.epsilon) ** self.gamma
        )

    def in_units(self, parameters_unit: float, tokens_unit: float) -> DcptLaw:
        """The same law with N and D counted in other units."""
        a = self.a * (self.parameters_unit / parameters_unit) ** self.alpha
        b = self.b * (self.tokens_unit / tokens_unit) ** self.beta
        return replace(self, a=a, b=b, parameters_unit=parameters_unit, tokens_unit=tokens_unit)

    def falls_in_share(self, least_tokens: float) -> bool:
        """Whether dL/dr < 0 for every r in [0, 1] and D >= least_tokens, by the sufficient condition at r = 1:
        C gamma / (1 + epsilon)^(gamma + 1) > B eta / D^beta, with eta >= 1."""
        left = self.c * self.gamma / (1 + self.epsilon) ** (self.gamma + 1)
        right = self.b * self.eta / (least_tokens / self.tokens_unit) ** self.beta
        return self.eta >= 1 and left >= right * (1 - 1e-12)

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Points:
    """Measured losses: N, D, r and nats per token, [n] each, and the run that each belongs to."""

    parameters: np.ndarray
    tokens: np.ndarray
    shares: np.ndarray
    losses: np.ndarray
    runs: Sequence[object]

    @property
    def sized(self) -> bool:
        """Whether models of several sizes were measured; else A / N^alpha is part of E and has no say."""
        return len(set(self.parameters.tolist())) > 1

    @property
    def free(self) -> int:
        """How many parameters the points decide on: 9, or 7 of one size."""
        return 9 if self.sized else 7


def fit_dcpt(points: Points, *, seed: int = 0) -> DcptLaw:
    """Huber's loss on log residuals, from many starts: exponents from a Sobol sequence, the rest by non-negative
    least squares, the best ones polished together under the constraints.

    Two different budgets and three shares at least, else ValueError.
    """
    _check(points)
    form = _Form(points)
    draws = qmc.Sobol(5, seed=seed).random(_STARTS)
    exponents = np.exp(np.log(_LOW) + draws * (np.log(_HIGH) - np.log(_LOW)))
    starts = sorted(map(form.start, exponents), key=form.cost)
    return form.polished(starts[:_POLISHED], evaluations=1500)


def refit_dcpt(law: DcptLaw, points: Points, rows: np.ndarray) -> list[DcptLaw]:
    """The law of each row of resampled losses [count, n], started from the law of the measured ones."""
    laws = []
    for row in rows:
        form = _Form(replace(points, losses=np.maximum(row, _TINY)))
        laws.append(form.polished([form.packed(law)], evaluations=20, precision=1e-7))
    return laws


def _check(points: Points) -> None:
    for words, values, least in (("budgets", points.tokens, 2), ("shares", points.shares, 3)):
        found = len(set(values.tolist()))
        if found < least:
            raise ValueError(f"found {found} different {words}, expected {least} or more")


class _Form:
    """The law as unbounded numbers: logarithms, with C above the least value that the constraints allow."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.n_unit = float(np.exp(np.mean(np.log(points.parameters))))
        self.d_unit = float(np.exp(np.mean(np.log(points.tokens))))
        self.n = points.parameters / self.n_unit
        self.d = points.tokens / self.d_unit
        self.d_least = float(self.d.min())
        # E, A, alpha, B, eta - 1, beta, C over its least value - 1, gamma, epsilon
        self.low = np.log([_TINY, _TINY, _LOW[0], _TINY, _LOW[1], _LOW[2], _TINY, _LOW[3], _LOW[4]])
        self.high = np.log([_HUGE, _HUGE, _HIGH[0], _HUGE, _HIGH[1], _HIGH[2], 1e12, _HIGH[3], _HIGH[4]])

    def least_c(self, b: float, eta: float, beta: float, gamma: float, epsilon: float) -> float:
        return float(b * eta / self.d_least**beta * (1 + epsilon) ** (gamma + 1) / gamma)

    def law(self, x: np.ndarray) -> DcptLaw:
        e, a, alpha, b, eta_more, beta, c_more, gamma, epsilon = np.exp(x).tolist()
        eta = 1 + eta_more
        c = self.least_c(b, eta, beta, gamma, epsilon) * (1 + c_more)
        if not self.points.sized:
            a = 0.0
        return DcptLaw(e, a, alpha, b, eta, beta, c, gamma, epsilon, self.n_unit, self.d_unit)

    def packed(self, law: DcptLaw) -> np.ndarray:
        law = law.in_units(self.n_unit, self.d_unit)
        least = self.least_c(law.b, law.eta, law.beta, law.gamma, law.epsilon)
        more = max(law.c / least - 1, _TINY) if least > 0 else 1e12
        values = [law.e, law.a, law.alpha, law.b, law.eta - 1, law.beta, more, law.gamma, law.epsilon]
        result: np.ndarray = np.clip(np.log(np.maximum(values, 1e-300)), self.low, self.high)
        return result

    def start(self, exponents: np.ndarray) -> np.ndarray:
        """The exponents with the best non-negative E, A, B, C for them."""
        alpha, eta_more, beta, gamma, epsilon = exponents.tolist()
        r = self.points.shares
        columns = np.column_stack([
            np.ones_like(r),
            self.n**-alpha if self.points.sized else np.zeros_like(r),
            r ** (1 + eta_more) / self.d**beta,
            (r + epsilon) ** -gamma,
        ])  # fmt: skip
        (e, a, b, c), _ = nnls(columns, self.points.losses)
        return self.packed(DcptLaw(e, a, alpha, b, 1 + eta_more, beta, c, gamma, epsilon, self.n_unit, self.d_unit))

    def residuals(self, x: np.ndarray) -> np.ndarray:
        predicted = predict(self.law(x), self.points)
        result: np.ndarray = np.log(predicted) - np.log(self.points.losses)
        return result

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """Derivatives of the residuals by x, [n, 9]: thirty times as fast as differences."""
        law, more = self.law(x), float(np.exp(x[6]))
        r, epsilon, gamma = self.points.shares, law.epsilon, law.gamma
        sized = law.a / self.n**law.alpha
        mixed = law.b * r**law.eta / self.d**law.beta
        bent = law.c / (r + epsilon) ** gamma
        columns = [
            np.full_like(r, law.e),
            sized,
            -law.alpha * sized * np.log(self.n),
            mixed + bent,
            (law.eta - 1) * (mixed * np.log(np.maximum(r, 1e-300)) + bent / law.eta),
            -law.beta * (mixed * np.log(self.d) + bent * np.log(self.d_least)),
            bent * more / (1 + more),
            gamma * bent * (np.log1p(epsilon) - 1 / gamma - np.log(r + epsilon)),
            epsilon * bent * ((gamma + 1) / (1 + epsilon) - gamma / (r + epsilon)),
        ]
        result: np.ndarray = np.column_stack(columns) / predict(law, self.points)[:, None]
        return result

    def cost(self, x: np.ndarray) -> float:
        return float(np.sum(np.abs(self.residuals(x))))

    def polished(self, starts: Sequence[np.ndarray], *, evaluations: int, precision: float = 1e-12) -> DcptLaw:
        best = best_of(
            self.residuals,
            starts,
            (self.low, self.high),
            delta=HUBER_DELTA,
            evaluations=evaluations,
            slopes=self.slopes,
            precision=precision,
        )
        return self.law(best)


def predict(law: DcptLaw, points: Points) -> np.ndarray:
    """The law at every point, [n]."""
    n, d, r = points.parameters / law.parameters_unit, points.tokens / law.tokens_unit, points.shares
    result: np.ndarray = (
        law.e + law.a / n**law.alpha + law.b * r**law.eta / d**law.beta + law.c / (r + law.epsilon) ** law.gamma
    )
    return result
