"""A version from the store to ready: read, verify, encode the catalogue, warm up, beside whatever serves."""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from contract.bundle import Bundle, BundleError, BundleNotFoundError, StoreError, check_name
from contract.codec import packed_layout
from contract.schema import Schema
from contract.store import Store
from scoring.device import Device
from scoring.errors import DeviceError, ScoringError
from scoring.gpu import Gpu
from scoring.memory import Zeros, private_zeros
from scoring.scorer import Scorer
from service import allocator
from service.background import background_thread
from service.errors import ConflictError, InvalidError, NotFoundError, RequestError, UnavailableError
from service.mirror import Mirror
from service.serving import ServingVersion
from service.version import LoadedVersion

_LOOK_AT = 256
"""Stored items whose layout a version is checked against."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where bundles lie, how they run and what tables lie in."""

    store: Store
    model: str
    device: Device
    num_threads: int
    require_kernels: bool = False
    zeros: Zeros = private_zeros
    gpu: Gpu | None = None


class Loader:
    """Loads versions. A version that cannot serve raises a RequestError that says why."""

    def __init__(self, options: LoadOptions, mirror: Mirror) -> None:
        self._options, self._mirror = options, mirror
        self._reading, self._encoding = background_thread("read"), background_thread("encode")
        self._opening = opening_thread(options.num_threads)
        self._following = ThreadPoolExecutor(1, "follow")

    async def load(self, name: str, serving: LoadedVersion | None = None) -> LoadedVersion:
        """Return a version that is ready to take over from the serving one.

        Raises
        ------
        NotFoundError
            The store lacks it.
        ConflictError
            It does not fit the stored items or the histories that are served.
        InvalidError
            Its files are damaged, or it does not compute what it should.
        UnavailableError
            The store does not answer, or the device failed at this and goes on.
        DeviceError
            The device is not the one that runs, or does nothing any more.
        """
        with or_refused(name, self._options):
            return await self._load(name, serving)

    async def _load(self, name: str, serving: LoadedVersion | None) -> LoadedVersion:
        loop = asyncio.get_running_loop()
        bundle = await loop.run_in_executor(self._reading, read_version, name, self._options)
        sample = self._mirror.values_of(self._mirror.some(_LOOK_AT))
        await loop.run_in_executor(self._reading, check_fits, bundle.manifest.features, sample, serving)
        opening = functools.partial(open_scorer, bundle, self._options, encodes=False)
        scorer = await loop.run_in_executor(self._opening, opening)
        await loop.run_in_executor(self._encoding, scorer.open_encoder)
        await loop.run_in_executor(self._encoding, scorer.verify)
        version = await loop.run_in_executor(self._encoding, LoadedVersion, scorer, self._mirror)
        try:
            await version.fill(self._encoding, serving)
            version.follow(self._following)
            await loop.run_in_executor(self._encoding, warm_up, version)
        except BaseException:
            await version.close()
            raise
        return version

    def close(self) -> None:
        """End the threads once they are idle."""
        self._reading.shutdown(wait=False)  # a store that hangs is given up, not waited for
        self._opening.shutdown()
        self._encoding.shutdown()
        self._following.shutdown()


def opening_thread(num_threads: int) -> ThreadPoolExecutor:
    """Return the executor to open sessions in whose runs take so many threads.

    Those that a session starts inherit the priority of the one that opens it; for runs of one thread it starts none.
    """
    return background_thread("open") if num_threads == 1 else ThreadPoolExecutor(1, "open")


def read_version(name: str, options: LoadOptions) -> Bundle:
    """Return a version's bundle, verified; raises BundleError or, for what is no name, NotFoundError."""
    try:
        check_name(name, "version")
    except BundleError as error:
        raise NotFoundError(str(error), "version") from error
    return options.store.read(options.model, name)


def open_scorer(bundle: Bundle, options: LoadOptions, *, encodes: bool = True) -> Scorer:
    """Return a bundle on its device, and log what runs it; raises ScoringError."""
    scorer = Scorer(
        bundle,
        options.device,
        options.num_threads,
        require_kernels=options.require_kernels,
        encodes=encodes,
        zeros=options.zeros,
        gpu=options.gpu,
    )
    allocator.give_back_after(scorer)
    _log.info(
        "version loaded",
        version=bundle.version,
        provider=scorer.provider,
        precision=bundle.manifest.precision,
        kernels=dict(scorer.kernels),
    )
    return scorer


@contextlib.contextmanager
def or_refused(name: str, options: LoadOptions) -> Iterator[None]:
    """Turn whatever keeps a version from being loaded into a RequestError that says why.

    A DeviceError passes that keeps every other version from being loaded too.
    """
    try:
        yield
    except RequestError:
        raise
    except DeviceError as error:
        if error.lasting:
            raise
        raise UnavailableError(f"version {name} cannot be loaded: {error}", "version") from error
    except BundleNotFoundError:
        raise NotFoundError(f"the store has no version {name} of {options.model}", "version") from None
    except StoreError as error:
        raise UnavailableError(f"version {name} cannot be loaded: {error}", "version") from error
    except (BundleError, ScoringError) as error:
        raise InvalidError(f"version {name} cannot be served: {error}", "version") from error
    except Exception as error:
        raise InvalidError(f"version {name} cannot be served: {error!r}", "version") from error


def check_fits(features: Schema, stored: Sequence[bytes], serving: LoadedVersion | None) -> None:
    """Raise ConflictError if a model cannot read most stored items, or needs other histories than are served."""
    layouts = Counter(packed_layout(value) for value in stored if len(value) >= 8)
    if layouts:
        width, num_slots = layouts.most_common(1)[0][0]
        if width != features.embedding_width:
            raise ConflictError(f"its embedding width is {features.embedding_width}, the stored items' {width}")
        if num_slots != features.max_tags:
            raise ConflictError(f"it takes {features.max_tags} tags an item, the stored items have {num_slots}")
    if serving is not None and serving.scorer.features.history_length != features.history_length:
        length = serving.scorer.features.history_length
        raise ConflictError(f"its history length is {features.history_length}, the serving version's {length}")


def warm_up(version: ServingVersion) -> None:
    """Rank nothing at the usual sizes."""
    with version.rows.view() as view:
        version.scorer.warm_up(view.tables)
