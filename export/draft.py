"""A bundle before it is published: run from a temporary folder, so that its manifest can say what it does."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contract.bundle import read_bundle, stage
from contract.manifest import Manifest
from scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Draft:
    """All files of a bundle; the manifest is not yet final."""

    manifest: Manifest
    contents: Mapping[str, bytes]

    @contextmanager
    def scorer(self) -> Iterator[Scorer]:
        """Lend a scorer of the draft; its files are gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="qin-export-") as folder:
            path = Path(folder) / "draft"
            stage(path, self.manifest, self.contents)
            yield Scorer(read_bundle(path))
