"""Text to vectors by TF-IDF and a truncated SVD; fitted by scikit-learn, applied by numpy alone.

What fitting gives is applied by the same code to the catalogue and to one new item, so that both agree to the bit.
Words are runs of letters, digits and underscores, lower case: a language that writes without spaces wants another
encoder.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = r"(?u)\b\w+\b"
_MAX_WORDS = 50_000
_RARE = 2
"""A word of fewer items says nothing about another item; below `_FEW` items every word counts."""
_FEW = 1_000


@dataclass(frozen=True, slots=True)
class Tfidf:
    """A fitted encoder."""

    words: list[str]
    idf: NDArray[np.float64]  # (W,) inverse document frequency of each word
    components: NDArray[np.float32]  # (W, M)

    @property
    def width(self) -> int:
        """M: numbers in a vector."""
        width: int = self.components.shape[1]
        return width

    def encode(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (n, M) vectors; zero for a text without a known word."""
        number = {word: position for position, word in enumerate(self.words)}
        word = re.compile(_WORD)
        vectors = np.zeros((len(texts), self.width))
        for row, text in enumerate(texts):
            counts = Counter(number[found] for found in word.findall(text.lower()) if found in number)
            if counts:
                vectors[row] = self._vector(counts)
        return vectors

    def _vector(self, counts: Counter[int]) -> NDArray[np.float64]:
        """Return the weighted sum of components: (1 + log tf) idf, of unit length."""
        words = np.fromiter(counts.keys(), np.int64, len(counts))
        weights = (1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))) * self.idf[words]
        vector: NDArray[np.float64] = (weights / np.linalg.norm(weights)) @ self.components[words].astype(np.float64)
        return vector


def fit_tfidf(texts: Sequence[str], width: int, seed: int) -> Tfidf | None:
    """Fit to the texts of a catalogue; None where they hold no word.

    The vectors have `width` numbers, or as many as there are words if that is less.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    min_items = _RARE if len(texts) >= _FEW else 1
    vectorizer = TfidfVectorizer(token_pattern=_WORD, sublinear_tf=True, min_df=min_items, max_features=_MAX_WORDS)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:  # an empty vocabulary
        return None
    words = vectorizer.get_feature_names_out().tolist()
    svd = TruncatedSVD(min(width, len(words)), random_state=seed).fit(matrix)
    return Tfidf(words, vectorizer.idf_, svd.components_.T.astype(np.float32))
