"""A small collection, and an encoder that needs no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from fullrank.search import Document


class HashEncoder:
    """One deterministic Gaussian vector per text."""

    def __init__(self, dim: int = 16) -> None:
        self.dim = dim

    def encode(self, texts: list[str], /) -> np.ndarray:
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return np.random.default_rng(seed).standard_normal(self.dim, dtype=np.float32)


def collection(texts: Sequence[str]) -> list[Document]:
    return [Document(f"d{number}", text) for number, text in enumerate(texts)]


@pytest.fixture
def documents() -> list[Document]:
    return collection(
        [
            "matrix rank rank rank decides",
            "rank tensors carefully",
            "ranking documents matrix",
            "singular values decay quickly inside trained matrix layers",
            "cats sleep",
            "",
        ]
    )
