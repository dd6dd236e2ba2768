"""Encoders that come with a model of their own: sentence-transformers for text, open_clip for images.

Neither is a dependency of this project. Their models come from where the libraries take them, a hub or a folder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preparation.errors import EncoderError

_AT_ONCE = 64


def encode_sentences(name: str, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, M) unit vectors of texts by a sentence-transformers model, zero for an empty text.

    Parameters
    ----------
    name
        Of the model in the hub, or the folder that it was saved to.

    Raises
    ------
    EncoderError
        sentence-transformers is not installed, or there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EncoderError("sentence-transformers is not installed: pip install sentence-transformers") from error
    try:
        model = SentenceTransformer(name)
    except Exception as error:
        raise EncoderError(f"sentence-transformers cannot load {name}: {error}") from error
    # Empty texts are encoded too, so that the width is known even where there are no others.
    vectors = model.encode(list(texts) or [""], batch_size=_AT_ONCE, show_progress_bar=False, convert_to_numpy=True)
    written = np.array([bool(text) for text in texts], dtype=bool)
    shown: NDArray[np.float64] = unit(vectors[: len(texts)].astype(np.float64)) * written[:, None]
    return shown


def encode_images(name: str, paths: Sequence[Path | None]) -> NDArray[np.float64]:
    """Return (n, M) unit vectors of images by an open_clip model, zero where there is no image.

    Parameters
    ----------
    name
        MODEL/PRETRAINED, the latter a tag that open_clip knows or the file of the weights.

    Raises
    ------
    EncoderError
        open_clip is not installed, there is no such model, or an image cannot be read.
    """
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise EncoderError("open_clip is not installed: pip install open_clip_torch") from error
    model_name, _, pretrained = name.partition("/")
    try:
        model, _, transform = open_clip.create_model_and_transforms(model_name, pretrained=pretrained or None)
    except Exception as error:
        raise EncoderError(f"open_clip cannot load {name}: {error}") from error
    model.eval()
    present = [position for position, path in enumerate(paths) if path is not None]
    vectors = np.zeros((len(paths), _image_width(model)))
    with torch.no_grad():
        for start in range(0, len(present), _AT_ONCE):
            chosen = present[start : start + _AT_ONCE]
            images = torch.stack([transform(_opened(paths[position])) for position in chosen])
            vectors[chosen] = model.encode_image(images).double().numpy()
    return unit(vectors)


def _image_width(model: object) -> int:
    width: int = model.visual.output_dim  # type: ignore[attr-defined]
    return width


def _opened(path: Path | None) -> object:
    from PIL import Image, UnidentifiedImageError

    assert path is not None
    try:
        return Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise EncoderError(f"the image {path} cannot be read: {error}") from error


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vectors at length 1; a zero vector stays what it is."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = vectors / np.where(length > 0, length, 1)
    return scaled
