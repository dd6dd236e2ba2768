"""An item's frozen embedding: text and image vectors side by side, turned and cut by a PCA, at length 1.

    text vector    TF-IDF and SVD, or sentence-transformers; at length 1
    image vector   open_clip, where asked for; at length 1
    embedding      PCA of both side by side to `width` numbers (zeros behind where there are fewer), at length 1

An item without any text or image that an encoder knows has the zero vector, whatever the PCA makes of zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preparation.encoders import encode_images, encode_sentences, unit
from preparation.errors import EncoderError
from preparation.settings import Settings
from preparation.tfidf import Tfidf, fit_tfidf

SENTENCES = "sentence-transformers:"
CLIP = "open_clip:"
_FITTED_ROWS = 200_000
"""A PCA of so many items is no different from one of all."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """Fitted encoders and the projection behind them."""

    text_encoder: str  # tfidf or sentence-transformers:NAME
    image_encoder: str  # none or open_clip:NAME
    tfidf: Tfidf | None  # of the encoder tfidf, if the catalogue has any text
    mean: NDArray[np.float64]  # (M,)
    components: NDArray[np.float64]  # (M, width)

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        width: int = self.components.shape[1]
        return width

    def embed(self, texts: Sequence[str], images: Sequence[Path | None]) -> NDArray[np.float32]:
        """Return (n, width) embeddings.

        Raises
        ------
        EncoderError
            An encoder is not installed any more, or an image cannot be read.
        """
        return self.project(_encode(self.text_encoder, self.image_encoder, self.tfidf, texts, images))

    def project(self, vectors: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return (n, width) embeddings of (n, M) encoders' vectors."""
        described = vectors.any(axis=1, keepdims=True)
        return (unit((vectors - self.mean) @ self.components) * described).astype(np.float32)


def fit_embedder(
    texts: Sequence[str], images: Sequence[Path | None], settings: Settings
) -> tuple[Embedder, NDArray[np.float32]]:
    """Fit to a catalogue, and return its (n, width) embeddings too.

    Raises
    ------
    EncoderError
        There is no such encoder, it is not installed, or an image cannot be read.
    """
    text_encoder = "tfidf" if settings.text_encoder == "auto" else settings.text_encoder
    tfidf = fit_tfidf(texts, settings.width, settings.seed) if text_encoder == "tfidf" else None
    vectors = _encode(text_encoder, settings.image_encoder, tfidf, texts, images)
    mean, components = _fit_projection(vectors[vectors.any(axis=1)], settings)
    embedder = Embedder(text_encoder, settings.image_encoder, tfidf, mean, components)
    return embedder, embedder.project(vectors)


def _encode(
    text_encoder: str,
    image_encoder: str,
    tfidf: Tfidf | None,
    texts: Sequence[str],
    images: Sequence[Path | None],
) -> NDArray[np.float64]:
    """Return (n, M) the vectors of text and image side by side."""
    parts = []
    if text_encoder.startswith(SENTENCES):
        parts.append(encode_sentences(text_encoder.removeprefix(SENTENCES), texts))
    elif text_encoder != "tfidf":
        raise EncoderError(f"there is no text encoder {text_encoder!r}; there are tfidf and {SENTENCES}NAME")
    elif tfidf is not None:
        parts.append(unit(tfidf.encode(texts)))
    if image_encoder.startswith(CLIP):
        parts.append(encode_images(image_encoder.removeprefix(CLIP), images))
    elif image_encoder != "none":
        raise EncoderError(f"there is no image encoder {image_encoder!r}; there are none and {CLIP}MODEL/PRETRAINED")
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(texts), 1))


def _fit_projection(
    vectors: NDArray[np.float64], settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (M,) the mean and (M, width) the principal directions, the strongest first."""
    from sklearn.decomposition import PCA

    width, given = settings.width, vectors.shape[1]
    components = np.zeros((given, width))
    if len(vectors) < 2:
        components[: min(given, width), : min(given, width)] = np.eye(min(given, width))
        return np.zeros(given), components
    if len(vectors) > _FITTED_ROWS:
        vectors = np.random.default_rng(settings.seed).choice(vectors, _FITTED_ROWS, replace=False)
    pca = PCA(min(width, given, len(vectors)), svd_solver="covariance_eigh").fit(vectors)
    components[:, : pca.n_components_] = pca.components_.T
    return pca.mean_, components
