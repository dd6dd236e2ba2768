"""Which version serves: chosen at start, exchanged while requests run, the same in every replica."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from contract.bundle import BundleError, list_versions, read_manifest
from contract.manifest import Manifest
from scoring.errors import ScoringError
from service.active import ActiveVersion
from service.audience import Audience, Nobody
from service.connection import REDIS_ERRORS, or_unavailable
from service.errors import ConflictError, NoVersionError, RequestError
from service.loader import Loader
from service.metrics import Metrics
from service.serving import State
from service.version import LoadedVersion

_TRY_AGAIN_S = 5.0

_log = structlog.get_logger(__name__)


class Registry:
    """Holds the serving version; everybody who ranks takes it from here, once per request."""

    def __init__(
        self, folder: Path, loader: Loader, active: ActiveVersion, metrics: Metrics, audience: Audience | None = None
    ) -> None:
        self._folder, self._loader, self._active, self._metrics = folder, loader, active, metrics
        self._audience = audience or Nobody()
        self._serving: LoadedVersion | None = None
        self._swapping = asyncio.Lock()
        self._loading = False
        self._problem: str | None = None
        self._passed_over: str | None = None
        self._failed, self._try_again = "", 0.0

    @property
    def serving(self) -> LoadedVersion:
        """The version that answers."""
        assert self._serving is not None
        return self._serving

    @property
    def is_serving(self) -> bool:
        """Whether a version has been loaded yet."""
        return self._serving is not None

    def versions(self) -> list[Manifest]:
        """Return the manifests of all versions in the store, oldest first; unreadable ones are left out."""
        return stored_versions(self._folder)

    async def state(self) -> State:
        """Return what serves and what should; without Redis nothing is known of the latter."""
        active, previous = None, None
        with contextlib.suppress(*REDIS_ERRORS):
            active, previous = await self._active.read()
        return State(self.serving.name, active, previous, self._problem or self._passed_over)

    async def start(self) -> None:
        """Load the active version, or else the newest that can serve.

        Raises
        ------
        NoVersionError
            None can; the message says why.
        DeviceError
            The device is not the one that runs.
        """
        active, _ = await self._active.read()
        newest_first = list_versions(self._folder.parent, self._folder.name)[::-1]
        names = [active] if active else []
        for name in names + [name for name in newest_first if name != active]:
            try:
                await self._exchange(await self._loader.load(name))
                break
            except RequestError as error:
                if name == active:
                    self._problem = error.detail
                else:
                    self._passed_over = self._passed_over or error.detail
                _log.warning("version cannot be served", version=name, reason=error.detail)
        else:
            reason = self._problem or self._passed_over or f"{self._folder} holds no version"
            raise NoVersionError(f"nothing to serve: {reason}")
        await self._active.propose(self.serving.name)

    async def promote(self, name: str) -> None:
        """Serve a version here, then make it the active one everywhere.

        Raises
        ------
        RequestError
            It cannot serve, another swap is under way, or Redis is away; the version before goes on serving.
        """
        async with self._one_swap():
            before = self.serving
            if name != before.name:
                await self._exchange(await self._swapped_in(name))
            after = self.serving
            try:
                with or_unavailable("the active version cannot be stored"):
                    await self._active.write(name, before.name)
            except RequestError:
                await self._exchange(before)
                before, after = after, before
                raise
            finally:
                if before is not after:
                    await self._drop(before)
            self._problem = self._passed_over = None

    async def rollback(self) -> None:
        """Promote the version that was active before this one.

        Raises
        ------
        ConflictError
            There is none.
        RequestError
            See `promote`.
        """
        with or_unavailable("the previous version is not known"):
            _, previous = await self._active.read()
        if previous is None:
            raise ConflictError("no version was active before this one")
        await self.promote(previous)

    async def follow(self, interval_s: float) -> None:
        """Serve whatever becomes active, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            if self._swapping.locked():
                continue
            try:
                async with self._swapping:
                    with contextlib.suppress(*REDIS_ERRORS):
                        await self._follow_once()
            except Exception:
                _log.exception("the active version could not be followed")

    async def close(self) -> None:
        """Stop keeping the serving version up to date."""
        if self._serving is not None:
            await self._serving.close()

    async def _follow_once(self) -> None:
        active, _ = await self._active.read()
        if active is None:
            # Redis lost the key: what serves stays active, for replicas that start later too.
            await self._active.propose(self.serving.name)
            return
        if active == self.serving.name:
            self._problem = None
            return
        if active == self._failed and time.monotonic() < self._try_again:
            return
        before = self.serving
        try:
            await self._exchange(await self._swapped_in(active))
        except (RequestError, ScoringError) as error:
            self._problem, self._failed, self._try_again = str(error), active, time.monotonic() + _TRY_AGAIN_S
            return
        self._problem = self._passed_over = None
        await self._drop(before)

    async def _swapped_in(self, name: str) -> LoadedVersion:
        started = time.monotonic()
        self._loading = True
        try:
            loaded = await self._loader.load(name, self.serving)
            await self._prepare(loaded)
        except Exception as error:
            self._metrics.swap_failures.inc()
            _log.warning("version not swapped in", version=name, reason=str(error))
            raise
        finally:
            self._loading = False
        self._metrics.swap_seconds.observe(time.monotonic() - started)
        return loaded

    async def _prepare(self, version: LoadedVersion) -> None:
        try:
            await self._audience.prepare(version)
        except BaseException:
            await version.close()
            raise

    async def _exchange(self, version: LoadedVersion) -> None:
        self._serving = version
        scorer = version.scorer
        self._metrics.serving(scorer.bundle.manifest.model, version.name, scorer.provider, scorer.kernels)
        _log.info("version serves", version=version.name, num_items=len(version.rows))
        await self._audience.exchange(version)

    async def _drop(self, version: LoadedVersion) -> None:
        await version.close()
        self._audience.forget(version)

    @contextlib.asynccontextmanager
    async def _one_swap(self) -> AsyncIterator[None]:
        # Whoever only looks up the active version holds the lock for a moment: that is worth waiting for.
        if self._loading:
            raise ConflictError("another version is being loaded; try again when it serves")
        async with self._swapping:
            yield


def stored_versions(folder: Path) -> list[Manifest]:
    """Return the manifests of all versions in a model's folder, oldest first; unreadable ones are left out."""
    manifests = []
    for name in list_versions(folder.parent, folder.name):
        with contextlib.suppress(BundleError):
            manifests.append(read_manifest(folder / name))
    return manifests
