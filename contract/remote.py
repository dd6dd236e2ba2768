"""A file system at a URL, by fsspec: every call bounded in time, every error one of ours and fit to be logged."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from contract.bundle_errors import BundleExistsError, BundleNotFoundError, StoreError
from contract.location import check_url, scrubbed, secrets_of, without_secrets
from contract.patience import ImpatientError, Patience

T = TypeVar("T")

_CHUNK_BYTES = 2**23
_RENAMES = {"file", "local", "sftp", "ssh", "ftp", "smb"}
"""File systems where what is being written can be seen half, and a rename cannot."""
_LOCAL = {"file", "local"}


class Remote:
    """Files by their path below a URL; safe to use from several threads.

    Methods raise BundleNotFoundError for a file that is not there, and StoreError for whatever else goes wrong.

    Parameters
    ----------
    url
        What fsspec can open. How to get in is best left to fsspec's own configuration or the environment.
    timeout_s
        How long it may take to answer, beside a second for each MiB that is moved.

    Raises
    ------
    StoreError
        It is no URL, or fsspec is not installed.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = check_url(url)
        self.location = without_secrets(self._url)
        self._fsspec = _import_fsspec()
        self._patience = Patience(timeout_s)
        self._opening = threading.Lock()
        self._opened: tuple[Any, str] | None = None

    def list_files(self, folder: str) -> list[str]:
        """Return the paths of all files in a folder and below; none where there is no such folder."""

        def listed(system: Any, root: str) -> list[str]:
            system.invalidate_cache()
            below = f"{root}/{folder}/"
            return [path.removeprefix(below) for path in system.find(below) if path.startswith(below)]

        try:
            return self._call(f"{folder} cannot be listed", listed)
        except BundleNotFoundError:
            return []

    def size(self, path: str, most_bytes: int) -> int:
        """Return a file's size; raises StoreError if it is larger than it may be."""

        def asked(system: Any, root: str) -> int:
            system.invalidate_cache()
            size = system.info(f"{root}/{path}").get("size")
            if not isinstance(size, int):
                raise TypeError("it does not say how large it is")
            return size

        size = self._call(f"{path} cannot be read", asked)
        if size > most_bytes:
            raise StoreError(
                f"{self.location}/{path} is larger ({size} bytes) than the {most_bytes} that it may have"
            )
        return size

    def chunks(self, path: str, most_bytes: int) -> Iterator[bytes]:
        """Yield what a file holds, part by part."""
        size = self.size(path, most_bytes)
        for start in range(0, size, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, size)

            def part(system: Any, root: str, start: int = start, end: int = end) -> bytes:
                return bytes(system.cat_file(f"{root}/{path}", start=start, end=end))

            yield self._call(f"{path} cannot be read", part, end - start)

    def read(self, path: str, most_bytes: int) -> bytes:
        """Return what a small file holds."""
        return b"".join(self.chunks(path, most_bytes))

    def upload(self, source: Path, path: str) -> None:
        """Write a local file."""
        num_bytes = source.stat().st_size
        self._call(
            f"{path} cannot be written",
            lambda system, root: system.put_file(str(source), f"{root}/{path}"),
            num_bytes,
        )

    def create(self, path: str, data: bytes) -> None:
        """Write a file that is not there yet, at once; raises BundleExistsError if it is, where that can be told."""

        def created(system: Any, root: str) -> None:
            final = f"{root}/{path}"
            if _protocols(system) & _RENAMES:
                system.pipe_file(f"{final}.part", data)
                system.mv(f"{final}.part", final)
                return
            try:
                system.pipe_file(final, data, mode="create")
            except FileExistsError:
                raise
            except Exception as error:
                # Some object stores know no condition on a write. That it is not there was seen a moment ago.
                if not isinstance(error, NotImplementedError) and "NotImplemented" not in str(error):
                    raise
                system.pipe_file(final, data)

        self._call(f"{path} cannot be written", created, len(data))

    def is_link(self, path: str) -> bool:
        """Whether a folder is a link to another one."""
        return self._call(
            f"{path} cannot be read", lambda system, root: bool(system.info(f"{root}/{path}").get("islink"))
        )

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._call(f"{path} cannot be removed", lambda system, root: system.rm_file(f"{root}/{path}"))

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that is in it, if it is there."""

        def removed(system: Any, root: str) -> None:
            system.invalidate_cache()
            if system.exists(f"{root}/{path}"):
                system.rm(f"{root}/{path}", recursive=True)

        with contextlib.suppress(BundleNotFoundError):
            self._call(f"{path} cannot be removed", removed)

    def modified(self, path: str) -> datetime | None:
        """Return when a file was written, None where that is not known."""

        def asked(system: Any, root: str) -> datetime | None:
            try:
                moment = system.modified(f"{root}/{path}")
            except NotImplementedError:
                return None
            return moment if isinstance(moment, datetime) and moment.tzinfo is not None else None

        return self._call(f"{path} cannot be read", asked)

    def _call(self, what: str, function: Callable[[Any, str], T], num_bytes: int = 0) -> T:
        try:
            return self._patience.call(lambda: function(*self._system()), num_bytes)
        except FileNotFoundError:
            raise BundleNotFoundError(f"{self.location}: {what}: it is not there") from None
        except FileExistsError:
            raise BundleExistsError(f"{self.location}: {what}: it is there already") from None
        except ImpatientError as error:
            raise StoreError(f"{self.location}: {what}: {error}") from None
        except ImportError as error:
            reason = self._scrubbed(error)
            raise StoreError(f"{self.location}: {what}: a package for such URLs is missing: {reason}") from None
        except Exception as error:
            self._forget()
            # Without the original: its words, and those of what it was raised from, may hold secrets.
            raise StoreError(f"{self.location}: {what}: {self._scrubbed(error)}") from None

    def _system(self) -> tuple[Any, str]:
        """Open the file system at its first use, in the thread that may hang: opening may connect."""
        with self._opening:
            opened = self._opened
        if opened is None:
            options = {"auto_mkdir": True} if self._url.split("://")[0].lower() in _LOCAL else {}
            system, root = self._fsspec.core.url_to_fs(self._url, skip_instance_cache=True, **options)
            opened = (system, root.rstrip("/"))
            with self._opening:
                self._opened = opened
        return opened

    def _forget(self) -> None:
        """Connect anew next time; what runs asynchronously does so by itself."""
        with self._opening:
            if self._opened is not None and not getattr(self._opened[0], "async_impl", False):
                self._opened = None

    def _scrubbed(self, error: Exception) -> str:
        with self._opening:
            options = self._opened[0].storage_options if self._opened is not None else {}
        configured = self._fsspec.config.conf
        secrets = secrets_of(self._url, {"options": options, "configured": configured})
        return scrubbed(f"{type(error).__name__}: {error}".removesuffix(": "), secrets)


def _protocols(system: Any) -> set[str]:
    protocol = system.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def _import_fsspec() -> Any:
    try:
        import fsspec
        import fsspec.config
        import fsspec.core
    except ImportError:
        raise StoreError(
            "a store at a URL needs fsspec and a package for that kind of URL: pip install 'qin-ranker[store]', "
            "and s3fs for s3://, gcsfs for gs://, adlfs for abfs://"
        ) from None
    return fsspec
