import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from contract.bundle import (
    GOLDEN,
    MANIFEST,
    RANKER,
    VOCABULARY,
    BundleCorruptError,
    BundleError,
    BundleExistsError,
    BundleNotFoundError,
    StoreError,
    read_bundle,
    read_manifest,
    stage,
)
from contract.pruning import prune
from contract.store import Store, open_store
from tests.contract.stores import KINDS, URL_KINDS, location
from tests.fakes import make_bundle

VERSIONS = [f"2026010{day}T000000000Z-0000000{day}" for day in range(1, 6)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real bundle."""
    return make_bundle(tmp_path_factory.mktemp("store"))


@dataclass
class Place:
    """A store, and ways to look behind its back."""

    url: str
    store: Store
    cache: Path
    bundle: Path

    def reopened(self, cache: Path | None = None, timeout_s: float = 30) -> Store:
        """The same store as another process sees it."""
        return open_store(self.url, cache or self.cache, timeout_s)

    def publish(self, version: str, store: Store | None = None) -> Path:
        """Publish the bundle under a version of one's own choice."""
        store = store or self.store
        staged = store.staging_folder("qin")
        restaged(self.bundle, staged, version)
        return store.publish(staged, version)

    def files(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The store's files as fsspec sees them."""
        system, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        system.invalidate_cache()
        return system, root

    def copies(self) -> list[Path]:
        """The versions on this machine."""
        return sorted(path.parent for path in self.cache.glob(f"bundles/*/qin/*/{MANIFEST}"))


def restaged(bundle: Path, staged: Path, version: str, model: str = "qin") -> None:
    """Stage a bundle under another version."""
    manifest = read_manifest(bundle).model_copy(update={"version": version, "model": model})
    stage(staged, manifest, {name: (bundle / name).read_bytes() for name in manifest.files})


def make_place(kind: str, bundle: Path, folder: Path) -> Iterator[Place]:
    with location(kind, folder) as url:
        yield Place(url, open_store(url, folder / "cache", 30), folder / "cache", bundle)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, bundle: Path, tmp_path: Path) -> Iterator[Place]:
    """An empty store of each kind."""
    yield from make_place(request.param, bundle, tmp_path)


@pytest.fixture(params=URL_KINDS)
def remote(request: pytest.FixtureRequest, bundle: Path, tmp_path: Path) -> Iterator[Place]:
    """An empty store at a URL of each kind."""
    yield from make_place(request.param, bundle, tmp_path)


@pytest.fixture
def memory(bundle: Path, tmp_path: Path) -> Iterator[Place]:
    """An empty store in memory, which tests break in ways of their own."""
    yield from make_place("memory", bundle, tmp_path)


def test_what_is_published_is_read_back(place: Place, tmp_path: Path) -> None:
    """A version arrives whole in another process that shares nothing but the store."""
    assert place.store.versions("qin") == []
    for version in (VERSIONS[1], VERSIONS[0]):
        place.publish(version)
    other = place.reopened(tmp_path / "other")
    assert other.versions("qin") == VERSIONS[:2]
    assert other.versions("films") == []
    assert other.manifest("qin", VERSIONS[0]).version == VERSIONS[0]
    read = other.read("qin", VERSIONS[1])
    assert read.manifest == other.manifest("qin", VERSIONS[1])
    assert read.graph(RANKER) == (place.bundle / RANKER).read_bytes()
    assert (other.fetch("qin", VERSIONS[1]) / RANKER).read_bytes() == (place.bundle / RANKER).read_bytes()


def test_a_version_is_published_once(place: Place) -> None:
    """The first one stays, and the second leaves nothing staged behind."""
    place.publish(VERSIONS[0])
    staged = place.store.staging_folder("qin")
    restaged(place.bundle, staged, VERSIONS[0])
    with pytest.raises(BundleExistsError, match="already"):
        place.store.publish(staged, VERSIONS[0])
    assert not staged.exists()
    assert place.reopened().read("qin", VERSIONS[0]).version == VERSIONS[0]


def test_what_is_not_there_is_said_so(place: Place) -> None:
    """A version that the store lacks is not found, whatever is asked for."""
    place.publish(VERSIONS[0])
    for ask in (place.store.read, place.store.manifest, place.store.fetch, place.store.remove):
        with pytest.raises(BundleNotFoundError):
            ask("qin", VERSIONS[1])


@pytest.mark.parametrize("name", ["..", "../qin", "a/b", "", ".hidden", "a" * 129, "nul\0", "*", "a?b", "a\n"])
def test_no_name_leaves_the_store(place: Place, name: str) -> None:
    """Names of models and versions are refused before anything is asked."""
    for ask in (place.store.read, place.store.manifest, place.store.fetch, place.store.remove):
        with pytest.raises(BundleError, match="not valid"):
            ask("qin", name)
        with pytest.raises(BundleError, match="not valid"):
            ask(name, VERSIONS[0])
    for ask_model in (place.store.versions, place.store.staging_folder, place.store.remove_leftovers):
        with pytest.raises(BundleError, match="not valid"):
            ask_model(name)


def test_a_bundle_under_another_name_is_refused(place: Place, tmp_path: Path) -> None:
    """A version must be the one that its manifest says."""
    staged = place.store.staging_folder("qin")
    restaged(place.bundle, staged, VERSIONS[0], model="films")
    place.store.publish(staged, VERSIONS[1])
    with pytest.raises(BundleCorruptError, match=f"says to be films {VERSIONS[0]}"):
        place.reopened(tmp_path / "other").read("qin", VERSIONS[1])


def test_a_version_without_its_manifest_is_not_there(remote: Place, tmp_path: Path) -> None:
    """While the manifest is still to come, or gone first, there is no version."""
    remote.publish(VERSIONS[0])
    system, root = remote.files()
    system.rm_file(f"{root}/qin/{VERSIONS[0]}/{MANIFEST}")
    other = remote.reopened(tmp_path / "other")
    assert other.versions("qin") == []
    with pytest.raises(BundleNotFoundError):
        other.read("qin", VERSIONS[0])


def test_the_manifest_is_uploaded_last_and_removed_first(memory: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever an upload or a removal is cut short, no version is seen."""
    left: list[set[str]] = []
    put, remove_tree = MemoryFileSystem.put_file, MemoryFileSystem.rm

    def look(self: MemoryFileSystem) -> None:
        left.append({path.rpartition("/")[2] for path in self.find(memory.files()[1])})

    def put_file(self: MemoryFileSystem, *arguments: object, **options: object) -> None:
        put(self, *arguments, **options)
        look(self)

    def rm(self: MemoryFileSystem, *arguments: object, **options: object) -> None:
        look(self)
        remove_tree(self, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    monkeypatch.setattr(MemoryFileSystem, "rm", rm)
    memory.publish(VERSIONS[0])
    assert len(left) == 5
    memory.store.remove("qin", VERSIONS[0])
    assert len(left) == 6
    assert all(names and MANIFEST not in names for names in left)
    assert memory.files()[0].find(memory.files()[1]) == []


@pytest.mark.parametrize("name", [RANKER, VOCABULARY, GOLDEN])
def test_what_is_damaged_in_the_store_is_not_kept(remote: Place, tmp_path: Path, name: str) -> None:
    """A file that is not the published one is refused, and leaves nothing on this machine."""
    remote.publish(VERSIONS[0])
    system, root = remote.files()
    path = f"{root}/qin/{VERSIONS[0]}/{name}"
    system.pipe_file(path, system.cat_file(path)[:-1])
    other = remote.reopened(tmp_path / "other")
    with pytest.raises(BundleCorruptError, match=f"{name} is not the file that was published"):
        other.read("qin", VERSIONS[0])
    system.rm_file(path)
    with pytest.raises(BundleCorruptError, match="not there"):
        other.read("qin", VERSIONS[0])
    assert [path.name for path in (tmp_path / "other").glob("bundles/*/qin/*")] == [".locks"]


def test_a_damaged_copy_is_fetched_anew(remote: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A copy that lost bytes on this machine is replaced and the reader sees nothing of it."""
    copy = remote.publish(VERSIONS[0])
    assert remote.copies() == [copy]
    for spoil in (
        lambda: (copy / RANKER).write_bytes(b"junk"),
        lambda: (copy / MANIFEST).write_bytes(b"{}"),
        lambda: (copy / GOLDEN).unlink(),
        lambda: shutil.rmtree(copy),
    ):
        spoil()
        assert remote.reopened().read("qin", VERSIONS[0]).graph(RANKER) == (remote.bundle / RANKER).read_bytes()
    assert caplog.text.count("fetched anew") == 3


def test_of_two_who_publish_at_once_one_wins(remote: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system knows no conditional write a moment is left; S3 and the like leave none."""
    if remote.url.startswith("file:"):
        pytest.skip("a rename replaces what is there")
    remote.publish(VERSIONS[0])
    late = remote.reopened()
    monkeypatch.setattr(late._remote, "size", lambda *_: (_ for _ in ()).throw(BundleNotFoundError))
    with pytest.raises(BundleExistsError, match="there already"):
        remote.publish(VERSIONS[0], late)


class Away:
    """Breaks a store in memory: refusing, hanging until it is let go, or well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.how, self.let_go, self.num_asked = "well", threading.Event(), 0
        for name in ("find", "info", "cat_file", "pipe_file"):
            monkeypatch.setattr(MemoryFileSystem, name, self._broken(getattr(MemoryFileSystem, name)))

    def _broken(self, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.num_asked += 1
            if self.how == "refusing":
                raise ConnectionError("no route to s3cr3t-host with key AKIAEXAMPLE")
            if self.how == "hanging":
                self.let_go.wait(60)
            return original(*arguments, **options)

        return call


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    broken = Away(monkeypatch)
    yield broken
    broken.let_go.set()


@pytest.mark.parametrize("how", ["refusing", "hanging"])
def test_while_the_store_is_away_what_is_cached_serves(
    memory: Place, away: Away, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At any time, also in a process that starts then, and with a warning; what is not cached is an error."""
    memory.publish(VERSIONS[0])
    away.how = how
    store = memory.reopened(timeout_s=0.3)
    assert store.versions("qin") == [VERSIONS[0]]
    assert store.manifest("qin", VERSIONS[0]).version == VERSIONS[0]
    assert store.read("qin", VERSIONS[0]).version == VERSIONS[0]
    assert caplog.text.count("the store does not answer") >= 2
    with pytest.raises(StoreError, match="answer" if how == "hanging" else "ConnectionError"):
        store.read("qin", VERSIONS[1])
    with pytest.raises(StoreError):
        store.versions("films")
    with pytest.raises(StoreError):
        memory.publish(VERSIONS[2], store)


def test_a_store_that_hangs_is_not_asked_again_at_once(memory: Place, away: Away) -> None:
    """After a time-out calls fail without waiting, so that neither time nor threads are spent on it."""
    away.how = "hanging"
    store = memory.reopened(timeout_s=0.3)
    with pytest.raises(StoreError, match=r"did not answer within 0\.3 s"):
        store.versions("qin")
    asked, started = away.num_asked, time.monotonic()
    for _ in range(50):
        with pytest.raises(StoreError, match="a moment ago"):
            store.versions("qin")
    assert away.num_asked == asked
    assert time.monotonic() - started < 10  # 50 time-outs are 15 s


def test_a_version_that_the_store_lacks_is_not_served_from_a_copy(memory: Place, tmp_path: Path) -> None:
    """What was removed from the store is gone, though there still is a copy."""
    memory.publish(VERSIONS[0])
    assert len(memory.copies()) == 1
    memory.reopened(tmp_path / "other").remove("qin", VERSIONS[0])
    with pytest.raises(BundleNotFoundError):
        memory.reopened().read("qin", VERSIONS[0])


def test_old_copies_go_but_none_that_is_in_use(memory: Place) -> None:
    """A few versions stay on this machine, and one that is referred to stays whatever comes."""
    for version in VERSIONS:
        memory.publish(version)
    shutil.rmtree(memory.cache)
    used = memory.reopened().read("qin", VERSIONS[0])
    for version in VERSIONS[1:]:
        memory.reopened().read("qin", version)
    assert [path.name for path in memory.copies()] == [VERSIONS[0], *VERSIONS[2:]]
    assert used.graph(RANKER)
    del used
    memory.reopened().read("qin", VERSIONS[1])
    assert [path.name for path in memory.copies()] == [VERSIONS[1], *VERSIONS[3:]]


def _read_often(url: str, cache: Path, results: "multiprocessing.Queue[str]") -> None:
    try:
        for _ in range(3):
            for version in VERSIONS[:2]:
                open_store(url, cache, 60).read("qin", version)
        results.put("")
    except BaseException as error:
        results.put(repr(error))


def test_processes_that_fetch_at_once_all_get_it(bundle: Path, tmp_path: Path) -> None:
    """Several processes share one cache; each reads whole bundles, and nothing half is left."""
    for place in make_place("file", bundle, tmp_path):
        for version in VERSIONS[:2]:
            place.publish(version)
        shutil.rmtree(place.cache)
        spawning = multiprocessing.get_context("spawn")
        results = spawning.Queue()
        readers = [spawning.Process(target=_read_often, args=(place.url, place.cache, results)) for _ in range(3)]
        for reader in readers:
            reader.start()
        assert [results.get(timeout=120) for _ in readers] == [""] * 3
        for reader in readers:
            reader.join()
        assert [path.name for path in place.copies()] == VERSIONS[:2]
        assert not list(place.cache.glob("bundles/*/qin/.staging-*"))


def test_a_cache_that_cannot_be_written_says_which(memory: Place, tmp_path: Path) -> None:
    """The error names the folder and the setting."""
    memory.publish(VERSIONS[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/bundles/\S+ cannot be written \(.*\).*QIN_CACHE_DIR"):
        memory.reopened(tmp_path / "file").read("qin", VERSIONS[0])


def test_pruning_keeps_the_newest_and_the_needed(place: Place, tmp_path: Path) -> None:
    """All else goes, whole; what was kept is read as before."""
    for version in VERSIONS:
        place.publish(version)
    pruned = prune(place.store, "qin", 2, frozenset({VERSIONS[1], "not there"}))
    assert pruned.removed == (VERSIONS[0], VERSIONS[2])
    other = place.reopened(tmp_path / "other")
    assert other.versions("qin") == [VERSIONS[1], *VERSIONS[3:]]
    assert all(other.read("qin", version) for version in other.versions("qin"))
    assert prune(place.store, "qin", 3).removed == ()
    with pytest.raises(ValueError, match="at least one"):
        prune(place.store, "qin", 0)


def test_pruning_leaves_alone_what_is_no_version(place: Place, tmp_path: Path) -> None:
    """Other people's folders and files, damaged versions and other models stay, and do not count."""
    for version in VERSIONS[:3]:
        place.publish(version)
    system, root = place.files()
    others = [
        "qin/20250101T000000000Z-00000000/manifest.json",
        "qin/notes/manifest.json",
        "qin/notes.txt",
        "qin/20260101T000000000Z-0000000a/notes.txt",
        "films/20250101T000000000Z-00000000/manifest.json",
    ]
    for name in others:
        system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{root}/{name}", b"{}")
    assert prune(place.store, "qin", 1).removed == tuple(VERSIONS[:2])
    system, root = place.files()
    found = [path.removeprefix(f"{root}/") for path in system.find(root)]
    assert set(others) == {name for name in found if VERSIONS[2] not in name}


def test_old_leftovers_go_and_young_ones_stay(bundle: Path, tmp_path: Path) -> None:
    """What a crashed export left is removed after a day; nothing else that is old."""
    for place in make_place("folder", bundle, tmp_path):
        place.publish(VERSIONS[0])
        folder = Path(place.url) / "qin"
        names = [f".staging-{'a' * 32}", f".removed-{'b' * 32}", f".staging-{'c' * 32}", ".staging-mine", ".git"]
        for name in names:
            (folder / name).mkdir()
            (folder / name / "file").write_text("")
            for path in (folder / name / "file", folder / name):
                os.utime(path, (0, 0) if "c" * 32 not in name else None)
        (folder / f".staging-{'d' * 32}").symlink_to(bundle)
        assert list(prune(place.store, "qin", 1).leftovers) == sorted(names[:2])
        assert all((folder / name).exists() for name in [*names[2:], f".staging-{'d' * 32}"])
        assert read_bundle(bundle)


def test_old_leftovers_of_uploads_go(bundle: Path, tmp_path: Path) -> None:
    """An upload that was cut short is removed after a day, unless somebody put other files beside it."""
    for place in make_place("file", bundle, tmp_path):
        folder = tmp_path / "remote" / "qin"
        for version, names in zip(VERSIONS, ([RANKER], [RANKER], [RANKER, "notes.txt"], [RANKER]), strict=False):
            (folder / version).mkdir(parents=True)
            for name in names:
                (folder / version / name).write_text("")
                os.utime(folder / version / name, (0, 0) if version != VERSIONS[1] else None)
        (folder / VERSIONS[3]).rename(folder / "mine")
        assert prune(place.store, "qin", 1).leftovers == (VERSIONS[0],)
        assert sorted(path.name for path in folder.iterdir()) == [VERSIONS[1], VERSIONS[2], "mine"]


def test_of_a_link_only_the_link_goes(bundle: Path, tmp_path: Path) -> None:
    """A version that lies elsewhere is not deleted there."""
    restaged(bundle, tmp_path / "elsewhere", VERSIONS[0])
    for kind in ("folder", "file"):
        for place in make_place(kind, bundle, tmp_path / kind):
            place.publish(VERSIONS[1])
            folder = Path(place.url.removeprefix("file://")) / "qin"
            (folder / VERSIONS[0]).symlink_to(tmp_path / "elsewhere")
            if kind == "folder":
                assert prune(place.store, "qin", 1).removed == (VERSIONS[0],)
            else:
                with pytest.raises(StoreError, match="is a link"):
                    place.store.remove("qin", VERSIONS[0])
            assert read_bundle(tmp_path / "elsewhere")


def test_secrets_of_a_url_are_never_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a location nor an error nor a log holds user or password, of the URL or of fsspec's configuration."""
    store = open_store("ftp://some%40user:pass%2Fword1@127.0.0.1:9/models", tmp_path, 10)
    assert store.location == "ftp://127.0.0.1:9/models"
    texts = []
    for call in (lambda: store.versions("qin"), lambda: store.read("qin", VERSIONS[0])):
        with pytest.raises(StoreError) as raised:
            call()
        texts.append(str(raised.value))
        assert raised.value.__suppress_context__
    said = "".join(texts) + caplog.text
    assert "127.0.0.1:9" in said
    assert not [secret for secret in ("some%40user", "some@user", "word1", "pass%2F") if secret in said]


def test_secrets_in_an_error_of_a_library_are_taken_out(
    memory: Place, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fsspec was configured with may come back in an error's text."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {"key": "AKIAEXAMPLE", "client": {"password": "s3cr3t-host"}})
    away.how = "refusing"
    with pytest.raises(StoreError, match=r"ConnectionError: no route to \*\*\* with key \*\*\*"):
        memory.store.versions("qin")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://bucket/models?secret=hush", "fsspec's configuration"),
        ("s3://bucket/models#hush", "fsspec's configuration"),
        ("ftp://user:hu/sh@host/models", "percent-encoded"),
        ("ftp://user:hu@sh@host/models", "percent-encoded"),
        ("s3://bucket/mod*els-hush", "cannot hold"),
        ("ftp://[hush/models", "not a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_unquoted(url: str, complaint: str, tmp_path: Path) -> None:
    """The error says what is wrong and quotes nothing, for there may be a password in it."""
    with pytest.raises(StoreError, match=complaint) as raised:
        open_store(url, tmp_path)
    assert "hu" not in str(raised.value)


@pytest.mark.parametrize("url", ["nonsense://bucket/models", "abfs://bucket/models"])
def test_a_file_system_that_is_not_installed_is_named(url: str, tmp_path: Path) -> None:
    """The first use says what is missing."""
    with pytest.raises(StoreError, match=r"nonsense|adlfs"):
        open_store(url, tmp_path, 10).versions("qin")


def test_folders_need_no_fsspec(bundle: Path, tmp_path: Path) -> None:
    """A store in a folder works where fsspec is not installed, and one at a URL says what to install."""
    code = f"""
import sys
sys.modules["fsspec"] = None
from contract.store import open_store
from contract.bundle import StoreError
assert open_store({str(bundle.parent.parent)!r}).read("qin", {bundle.name!r})
try:
    open_store("s3://bucket/models")
except StoreError as error:
    assert "pip install 'qin-ranker[store]'" in str(error), error
else:
    sys.exit("it opened")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_store_in_a_folder_imports_no_fsspec(bundle: Path) -> None:
    """Its import costs time, and a plain folder has no use for it."""
    code = f"""
import sys
from contract.store import open_store
open_store({str(bundle.parent.parent)!r}).read("qin", {bundle.name!r})
assert "fsspec" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
