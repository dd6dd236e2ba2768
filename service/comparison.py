"""How two versions score the same requests, as sums that add up over processes."""

import math
from collections.abc import Iterable
from typing import Annotated, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.wire import ScoreSummary, ShadowReport

_TOP = 10
_LOGITS = np.linspace(-12, 12, 241)
_EDGES = 1 / (1 + np.exp(-_LOGITS))
"""Between neighbouring edges the odds of a click grow by a tenth: fine enough for quantiles of rare clicks too."""
_QUANTILES = (5, 25, 50, 75, 95)


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Sum = Annotated[float, msgspec.Meta(ge=0, le=1e16)]
"""Of numbers between 0 and 1; bounds are checked where sums are unpacked, and keep all that is computed finite."""

_ALL_THE_SAME = 1e-10
"""Below this share of the mean square a variance is what rounding leaves of none."""


def _no_counts() -> list[int]:
    return [0] * (len(_EDGES) + 1)


class Comparison(msgspec.Struct):
    """Sums over requests; x are scores of the serving version, y those of the one on trial."""

    requests: Count = 0
    candidates: Count = 0
    dropped: Count = 0
    failed: Count = 0
    sum_difference: Sum = 0.0
    max_difference: Sum = 0.0
    x: Sum = 0.0
    y: Sum = 0.0
    xx: Sum = 0.0
    yy: Sum = 0.0
    xy: Sum = 0.0
    same_top_1: Count = 0
    top_10_overlap: Sum = 0.0
    num_timed: Count = 0
    serving_s: Sum = 0.0
    trial_s: Sum = 0.0
    serving_counts: list[Count] = msgspec.field(default_factory=_no_counts)
    trial_counts: list[Count] = msgspec.field(default_factory=_no_counts)

    def add(self, serving: NDArray[np.float32], trial: NDArray[np.float32]) -> None:
        """Add a request: (N,) scores of its candidates by either version."""
        x, y = serving.astype(np.float64), trial.astype(np.float64)
        difference = np.abs(x - y)
        self.requests += 1
        self.candidates += len(x)
        self.sum_difference += float(difference.sum())
        self.max_difference = max(self.max_difference, float(difference.max()))
        self.x, self.y = self.x + float(x.sum()), self.y + float(y.sum())
        self.xx, self.yy = self.xx + float(x @ x), self.yy + float(y @ y)
        self.xy += float(x @ y)
        best = [np.argsort(-scores, kind="stable")[:_TOP] for scores in (x, y)]
        self.same_top_1 += int(best[0][0] == best[1][0])
        self.top_10_overlap += len(set(best[0].tolist()) & set(best[1].tolist())) / len(best[0])
        for counts, scores in ((self.serving_counts, x), (self.trial_counts, y)):
            bins, numbers = np.unique(np.searchsorted(_EDGES, scores, side="right"), return_counts=True)
            for place, number in zip(bins.tolist(), numbers.tolist(), strict=True):
                counts[place] += number

    def time(self, serving_s: float, trial_s: float) -> None:
        """Note how long one request took either version, under the same conditions."""
        self.num_timed += 1
        self.serving_s += serving_s
        self.trial_s += trial_s

    @classmethod
    def sum(cls, parts: Iterable[Self]) -> Self:
        """Return the comparison over several processes."""
        whole = cls()
        for part in parts:
            for name in cls.__struct_fields__:
                mine, others = getattr(whole, name), getattr(part, name)
                if name == "max_difference":
                    setattr(whole, name, max(mine, others))
                elif isinstance(mine, list):
                    setattr(whole, name, [one + other for one, other in zip(mine, others, strict=True)])
                else:
                    setattr(whole, name, mine + others)
        return whole

    def report(self) -> ShadowReport:
        """Return what the sums say."""
        n, requests = max(1, self.candidates), max(1, self.requests)
        return ShadowReport(
            requests=self.requests,
            candidates=self.candidates,
            dropped=self.dropped,
            failed=self.failed,
            mean_difference=self.sum_difference / n,
            max_difference=self.max_difference,
            correlation=self._correlation(),
            same_top_1=self.same_top_1 / requests,
            top_10_overlap=self.top_10_overlap / requests,
            serving=ScoreSummary(self.x / n, _quantiles(self.serving_counts)),
            trial=ScoreSummary(self.y / n, _quantiles(self.trial_counts)),
            serving_ms=1000 * self.serving_s / self.num_timed if self.num_timed else None,
            trial_ms=1000 * self.trial_s / self.num_timed if self.num_timed else None,
            num_timed=self.num_timed,
        )

    def _correlation(self) -> float | None:
        """Return Pearson's; None where the scores of a version are all the same."""
        n = self.candidates
        spreads = n * self.xx - self.x * self.x, n * self.yy - self.y * self.y
        if any(
            spread <= _ALL_THE_SAME * n * square for spread, square in zip(spreads, (self.xx, self.yy), strict=True)
        ):
            return None
        return (n * self.xy - self.x * self.y) / math.sqrt(spreads[0] * spreads[1])


def _quantiles(counts: list[int]) -> dict[str, float]:
    """Return quantiles by the counts between the edges, each score taken to lie evenly within them."""
    total = np.cumsum([0, *counts])
    if not total[-1]:
        return {}
    edges = np.concatenate([[0.0], _EDGES, [1.0]])
    return {f"p{q}": float(np.interp(q / 100 * total[-1], total, edges)) for q in _QUANTILES}
