"""The statistics behind every number: intervals, tests, and what a number of questions can show at all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
Z = 1.959963984540054
"""97.5% point of the normal distribution: half of a 95% interval in standard errors."""
_BATCH_CELLS = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float | None
    """Lower end of the interval; None where there are too few questions for one."""
    high: float | None
    n: int
    """Questions behind it."""
    method: str
    """"bootstrap", "wilson", or "none"."""

    def percent(self, digits: int = 1) -> str:
        """Like "81.5% [75.9, 86.3]"."""
        ends = (
            ""
            if self.low is None or self.high is None
            else f" [{100 * self.low:.{digits}f}, {100 * self.high:.{digits}f}]"
        )
        return f"{100 * self.value:.{digits}f}%{ends}"


def wilson(successes: float, n: int) -> Estimate:
    """A share with its Wilson score interval; half successes are allowed.

    Source: Wilson (1927); equal to scipy's `binomtest(k, n).proportion_ci(method="wilson")` for whole successes.
    """
    if n < 1:
        raise ValueError("a share needs at least one trial")
    p, z2 = successes / n, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half), n, "wilson")


def bootstrap(samples: Sequence[Floats], statistic: Callable[..., Any], resamples: int, seed: int) -> Estimate:
    """A statistic with its paired percentile bootstrap interval: whole questions are drawn with replacement.

    Args:
        samples: arrays of equal length (n,), one entry for each question.
        statistic: takes the arrays with an `axis` keyword and gives one number for each resample.
        resamples: how many.
        seed: of the draws.
    """
    from scipy import stats

    value, n = float(statistic(*samples, axis=-1)), len(samples[0])
    if n < 2:
        return Estimate(value, None, None, n, "none")
    result = stats.bootstrap(
        tuple(samples), statistic, paired=True, vectorized=True, axis=-1, method="percentile",
        n_resamples=resamples, batch=max(1, _BATCH_CELLS // n), confidence_level=LEVEL, rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if not (math.isfinite(low) and math.isfinite(high)):  # a resample without any score below the line
        return Estimate(value, None, None, n, "none")
    return Estimate(value, low, high, n, "bootstrap")


def mean_estimate(values: Floats, resamples: int, seed: int) -> Estimate:
    """The mean of outcomes between 0 and 1.

    Where all outcomes are equal every resample is too, and the bootstrap would claim certainty; then the interval is
    Wilson's.
    """
    if len(values) < 2 or bool(np.all(values == values[0])):
        return wilson(float(values.sum()), len(values))
    return bootstrap([values], np.mean, resamples, seed)


def ratio_estimate(upper: Floats, lower: Floats, resamples: int, seed: int) -> Estimate:
    """The ratio of two sums over the same questions."""

    def ratio(a: Floats, b: Floats, axis: int = -1) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return a.sum(axis=axis) / b.sum(axis=axis)

    return bootstrap([upper, lower], ratio, resamples, seed)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of "a decided question goes either way with equal chance"; 1 where none is decided."""
    from scipy import stats

    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Spearman's correlation; None where one side does not vary."""
    from scipy import stats

    if len(x) < 3 or np.all(x == x[0]) or np.all(y == y[0]):
        return None
    return float(stats.spearmanr(x, y).statistic)


@dataclass(frozen=True)
class Power:
    """What n questions can tell apart."""

    questions: int
    resolution: float
    """Half width of the widest 95% interval of a win rate, as a share: smaller differences cannot be told apart."""
    needed_for_5_points: int
    """Questions that would tell 5 points apart."""

    def sentence(self) -> str:
        """The statement that stands beside every win rate."""
        return (
            f"With {self.questions} questions, differences below {100 * self.resolution:.1f} points cannot be told "
            f"apart; to tell 5 points apart you need {self.needed_for_5_points}."
        )


def power(n: int) -> Power:
    """The power statement for n questions; outcomes of 0 and 1 in equal parts, the widest case, are assumed."""
    return Power(n, Z * 0.5 / math.sqrt(n) if n else 1.0, math.ceil((Z * 0.5 / 0.05) ** 2))
