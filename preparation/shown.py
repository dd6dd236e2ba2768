"""Impressions and clicks brought together: what was shown counts as clicked if the click came soon enough."""

import numpy as np
from numpy.typing import NDArray

from preparation.events import Events


def clicked_within(shown: Events, clicks: Events, window_s: float) -> NDArray[np.bool_]:
    """Tell for each of (n,) impressions whether its user clicked its item from then until `window_s` later.

    A click belongs to the last impression of its item to its user before it, and to no other: an item that was
    shown three times and clicked once is one click and two times nothing.
    """
    clicked = np.zeros(len(shown), dtype=bool)
    # Impressions and clicks of one user and item, in order of time; at the same moment the impression is first.
    user, item = (np.concatenate([getattr(shown, name), getattr(clicks, name)]) for name in ("user", "item"))
    time = np.concatenate([shown.time, clicks.time])
    kind = np.concatenate([np.zeros(len(shown), dtype=np.int8), np.ones(len(clicks), dtype=np.int8)])
    order = np.lexsort((kind, time, item, user))
    position = np.where(kind[order] == 0, np.arange(len(order)), -1)
    last_shown = np.maximum.accumulate(position) if len(position) else position
    is_click = kind[order] == 1
    click, impression = order[is_click], last_shown[is_click]
    click, impression = click[impression >= 0], order[impression[impression >= 0]]
    same = (user[click] == user[impression]) & (item[click] == item[impression])
    soon = time[click] - time[impression] < window_s * 1e6
    clicked[impression[same & soon]] = True
    return clicked


def is_ripe(time: NDArray[np.int64], clicks: Events, window_s: float) -> NDArray[np.bool_]:
    """Tell for each of (n,) times whether the log of clicks goes on long enough after it to know what was clicked."""
    last = int(clicks.time.max()) if len(clicks) else 0
    ripe: NDArray[np.bool_] = time <= last - window_s * 1e6
    return ripe
