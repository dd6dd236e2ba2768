"""Makes versions ready beside what serves, and exchanges them."""

import time

import structlog

from service.audience import Audience, Nobody
from service.lineup import Lineup, Trial
from service.loader import Loader
from service.metrics import Metrics
from service.version import LoadedVersion

_log = structlog.get_logger(__name__)


class Swapper:
    """The versions that are loaded, and the lineup of those that answer. One swap at a time.

    Parameters
    ----------
    loader
        Loads versions.
    metrics
        Told of swaps.
    audience
        Who else serves what is loaded.
    """

    def __init__(self, loader: Loader, metrics: Metrics, audience: Audience | None = None) -> None:
        self._loader, self._metrics, self._audience = loader, metrics, audience or Nobody()
        self._lineup: Lineup[LoadedVersion] | None = None
        self._loaded: dict[str, LoadedVersion] = {}
        self._prepared: set[str] = set()
        self.loading: str | None = None

    @property
    def lineup(self) -> Lineup[LoadedVersion]:
        """The versions that answer."""
        assert self._lineup is not None
        return self._lineup

    @property
    def is_serving(self) -> bool:
        """Whether a version has been loaded yet."""
        return self._lineup is not None

    def has(self, name: str) -> bool:
        """Whether a version is loaded."""
        return name in self._loaded

    async def start(self, name: str) -> None:
        """Load the first version and serve it; raises RequestError."""
        version = self._loaded[name] = await self._loader.load(name)
        await self.exchange(version)

    async def load(self, name: str) -> LoadedVersion:
        """Return a version, loaded beside what serves unless it is there already.

        Raises
        ------
        RequestError
            It cannot serve; the error says why.
        """
        if name not in self._loaded:
            started, self.loading = time.monotonic(), name
            try:
                self._loaded[name] = await self._loader.load(name, self.lineup.serving)
            except Exception as error:
                self._count_failure(name, error)
                raise
            finally:
                self.loading = None
            self._metrics.swap_seconds.observe(time.monotonic() - started)
        return self._loaded[name]

    async def prepare(self, version: LoadedVersion) -> None:
        """Make a loaded version ready everywhere else; raises RequestError where it cannot be."""
        if version.name in self._prepared or version in self.lineup.versions:
            return
        self.loading = version.name
        try:
            await self._audience.prepare(version)
        except Exception as error:
            self._count_failure(version.name, error)
            raise
        finally:
            self.loading = None
        self._prepared.add(version.name)

    async def exchange(
        self, serving: LoadedVersion, trial: Trial | None = None, candidate: LoadedVersion | None = None
    ) -> None:
        """Answer with these versions from now on, all of which are loaded and prepared."""
        lineup = Lineup(serving, trial, candidate)
        if self._lineup == lineup:
            return
        self._lineup = lineup
        self._metrics.serve(lineup)
        _log.info("version serves", version=serving.name, num_items=len(serving.rows), trial=trial)
        await self._audience.exchange(lineup)

    async def drop_unused(self) -> None:
        """Free every version that answers nobody."""
        used = self.lineup.versions
        unused = [name for name, version in self._loaded.items() if version not in used]
        for name in unused:
            await self._drop(name)

    async def _drop(self, name: str) -> None:
        version = self._loaded.pop(name)
        self._prepared.discard(name)
        await version.close()
        self._audience.forget(version)

    async def close(self) -> None:
        """Stop keeping versions up to date."""
        for version in self._loaded.values():
            await version.close()

    def _count_failure(self, name: str, error: Exception) -> None:
        self._metrics.swap_failures.inc()
        _log.warning("version not swapped in", version=name, reason=str(error))
