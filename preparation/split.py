"""Train, valid and test, by time: no row is younger than any of a later file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preparation.errors import SettingError
from preparation.rows import Rows
from preparation.settings import Settings, microseconds


@dataclass(frozen=True, slots=True)
class Split:
    """The moments at which files begin; all in microseconds."""

    rows_from: int
    valid_from: int
    test_from: int

    def parts(self, rows: Rows) -> dict[str, Rows]:
        """Return the rows of each file, those before `rows_from` in none; `rows` are in order of time."""
        first, second, third = np.searchsorted(rows.time, [self.rows_from, self.valid_from, self.test_from])
        return {
            "train.parquet": rows.where(slice(first, second)),
            "valid.parquet": rows.where(slice(second, third)),
            "test.parquet": rows.where(slice(third, len(rows))),
        }


def make_split(click_time: NDArray[np.int64], settings: Settings) -> Split:
    """Return the split that leaves the wanted shares of the clicks, or begins where it is told to.

    Clicks of one moment stay together.

    Raises
    ------
    SettingError
        The moments are not in order.
    """
    rows_from = int(click_time.min()) if settings.rows_from is None else microseconds(settings.rows_from)
    counted = click_time[click_time >= rows_from]
    if not len(counted):
        raise SettingError("there is no click at or after rows_from")

    def after(share: float) -> int:
        return int(np.quantile(counted, share, method="higher")) if share < 1 else int(counted.max()) + 1

    test_from = after(1 - settings.test_share) if settings.test_from is None else microseconds(settings.test_from)
    valid_share = 1 - settings.test_share - settings.valid_share
    valid_from = after(valid_share) if settings.valid_from is None else microseconds(settings.valid_from)
    if not rows_from <= valid_from <= test_from:
        raise SettingError("rows_from, valid_from and test_from are not in this order")
    return Split(rows_from, valid_from, test_from)
