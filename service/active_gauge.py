"""The version that all replicas are told to serve, as a metric that the owner shares with its workers."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class ActiveGauge(Collector):
    """Says which version is active, as far as that is known.

    Parameters
    ----------
    folder
        Where processes of one service share it; None where there is but one process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "active"
        self._shared: str | None = None
        self.read: Callable[[], str | None] = self._read_shared

    def share(self) -> None:
        """Tell the other processes, if there is something new."""
        name = self.read()
        if self._path is not None and name is not None and name != self._shared:
            temporary = self._path.with_suffix(".new")
            with contextlib.suppress(OSError):  # whatever clears temporary folders may have been there
                temporary.write_text(name)
                temporary.replace(self._path)
                self._shared = name

    def collect(self) -> Iterator[Metric]:
        """Give 1 for the active version."""
        family = GaugeMetricFamily(
            "qin_active", "1 for the version that all replicas are told to serve", labels=["version"]
        )
        if (name := self.read()) is not None:
            family.add_metric([name], 1)
        yield family

    def _read_shared(self) -> str | None:
        with contextlib.suppress(OSError):
            return self._path.read_text() if self._path is not None else None
        return None
