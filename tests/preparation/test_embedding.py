from pathlib import Path

import numpy as np
import pytest

from preparation.embedding import fit_embedder
from preparation.encoders import encode_sentences
from preparation.errors import EncoderError
from preparation.settings import make_settings
from preparation.tfidf import fit_tfidf

TEXTS = ["red car, fast car", "Blue CAR", "green tree", "", "tall green tree!", "fast blue bird", "a bird in a tree"]


def test_tfidf_without_scikit_learn_is_scikit_learn_s() -> None:
    """The same numbers as its vectorizer and SVD give, for the fitted texts and for new ones."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    svd = TruncatedSVD(4, random_state=1).fit(vectorizer.fit_transform(TEXTS))
    fitted = fit_tfidf(TEXTS, 4, seed=1)
    assert fitted is not None
    for texts in (TEXTS, ["a red red tree", "nothing known"]):
        assert np.abs(fitted.encode(texts) - svd.transform(vectorizer.transform(texts))).max() < 1e-6


def test_embeddings_have_length_1_or_are_zero() -> None:
    """Zero where there is no text; the width is what was asked for, whatever the texts give."""
    for width in (2, 4, 64):
        _, embedding = fit_embedder(TEXTS, [None] * len(TEXTS), make_settings(width=width))
        assert embedding.shape == (len(TEXTS), width)
        lengths = np.linalg.norm(embedding, axis=1)
        assert lengths == pytest.approx([float(bool(text)) for text in TEXTS], abs=1e-6)


def test_one_item_is_embedded_as_it_was_among_many() -> None:
    """To the last digits of float32."""
    embedder, embedding = fit_embedder(TEXTS, [None] * len(TEXTS), make_settings(width=4))
    for row, text in enumerate(TEXTS):
        assert np.abs(embedder.embed([text], [None])[0] - embedding[row]).max() < 1e-6


def test_alike_texts_are_near_each_other() -> None:
    """Nearer than unlike ones."""
    _, embedding = fit_embedder(TEXTS, [None] * len(TEXTS), make_settings(width=4))
    near = embedding @ embedding.T
    assert near[2, 4] > max(near[2, 0], near[2, 1])


def test_a_catalogue_without_text_has_zero_embeddings() -> None:
    """Ids and tags are what is left to learn from."""
    _, embedding = fit_embedder(["", ""], [None, None], make_settings(width=3))
    assert embedding.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_encoders_that_are_not_there_are_named() -> None:
    """Unknown names, and libraries that are not installed."""
    with pytest.raises(EncoderError, match="there is no text encoder 'word2vec'"):
        fit_embedder(TEXTS, [None] * 7, make_settings(settings=["text_encoder=word2vec"]))
    with pytest.raises(EncoderError, match="there is no image encoder 'resnet'"):
        fit_embedder(TEXTS, [None] * 7, make_settings(settings=["image_encoder=resnet"]))


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    for name, setting in (
        ("sentence_transformers", "text_encoder=sentence-transformers:x"),
        ("open_clip", "image_encoder=open_clip:x/y"),
    ):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(EncoderError, match="not installed: pip install"):
            fit_embedder(TEXTS, [None] * 7, make_settings(settings=[setting]))


@pytest.fixture
def sentence_model(tmp_path: Path) -> str:
    """Return the folder of a small sentence-transformers model of random weights."""
    library = pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import models  # or models in modules, by version

    torch.manual_seed(1)
    words = models.BoW(vocab=sorted({word for text in TEXTS for word in text.lower().split()}))
    dense = models.Dense(words.get_sentence_embedding_dimension(), 6)
    library.SentenceTransformer(modules=[words, dense], device="cpu").save(str(tmp_path / "model"))
    return str(tmp_path / "model")


@pytest.mark.filterwarnings("ignore")  # theirs are not ours to answer for
def test_a_sentence_transformers_model_embeds_texts(sentence_model: str) -> None:
    """One by one as all at once, at length 1, nothing for no text."""
    vectors = encode_sentences(sentence_model, TEXTS)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([float(bool(text)) for text in TEXTS], abs=1e-6)
    settings = make_settings(settings=[f"text_encoder=sentence-transformers:{sentence_model}", "width=4"])
    embedder, embedding = fit_embedder(TEXTS, [None] * 7, settings)
    assert np.abs(embedder.embed([TEXTS[2]], [None])[0] - embedding[2]).max() < 1e-5


@pytest.mark.filterwarnings("ignore")  # theirs are not ours to answer for
def test_images_are_embedded_by_open_clip(tmp_path: Path) -> None:
    """A model of random weights: same image, same vector; no image, no vector."""
    open_clip = pytest.importorskip("open_clip")
    import torch
    from PIL import Image

    torch.manual_seed(1)
    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("RN50", pretrained=None).state_dict(), weights)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "red.png", None, tmp_path / "blue.png", tmp_path / "red.png"]
    settings = make_settings(settings=[f"image_encoder=open_clip:RN50/{weights}", "width=4"])
    embedder, embedding = fit_embedder([""] * 4, paths, settings)
    assert np.abs(embedding[0] - embedding[3]).max() < 1e-5
    assert not embedding[1].any()
    assert np.abs(embedding[0] - embedding[2]).max() > 0.1
    assert np.abs(embedder.embed([""], [tmp_path / "blue.png"])[0] - embedding[2]).max() < 1e-4
    with pytest.raises(EncoderError, match=r"gone\.png cannot be read"):
        embedder.embed([""], [tmp_path / "gone.png"])
