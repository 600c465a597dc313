"""Dense retrieval: any encoder, exact search by matrix products."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save

from fullrank._files import write_bytes, write_json
from fullrank._optional import require
from fullrank.data import bundled_encoder
from fullrank.search.protocols import Document, Queries, checked, named
from fullrank.search.run import Run

_BLOCK = 65_536  # documents scored at a time


class Encoder(Protocol):
    """Anything that turns texts into vectors, such as a SentenceTransformer."""

    def encode(self, sentences: list[str], /, **options: Any) -> Any:
        """One vector per text."""
        ...


def load_encoder(folder: str | Path | None = None) -> Encoder:
    """A sentence-transformers encoder from a local folder; without one the bundled all-MiniLM-L6-v2. No network.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        FileNotFoundError: there is no such folder.
    """
    path = bundled_encoder() if folder is None else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; an encoder is loaded from a local Hugging Face folder")
    library = require("sentence_transformers", "search")
    progress = require("transformers.utils.logging", "search")
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # it would write over ours
    try:
        return cast(Encoder, library.SentenceTransformer(str(path), device="cpu", local_files_only=True))
    finally:
        if shown:
            progress.enable_progress_bar()


class DenseRetriever:
    """Retrieval by cosine of encoded texts, exact.

    Args:
        encoder: an object with `encode(texts)`, or a local model folder; the bundled all-MiniLM-L6-v2 by default,
            loaded at first use.
    """

    def __init__(self, encoder: Encoder | str | Path | None = None) -> None:
        self._encoder = encoder
        self._ids: list[str] = []
        self._vectors: torch.Tensor | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded."""
        if self._encoder is None or isinstance(self._encoder, str | Path):
            self._encoder = load_encoder(self._encoder)
        return self._encoder

    def build(self, documents: Sequence[Document]) -> DenseRetriever:
        """Encode documents, in place of what was indexed before.

        Raises:
            ValueError: no documents, or an id twice.
        """
        self._ids = checked(documents)
        self._vectors = self._encode([document.searched for document in documents])
        return self

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; scores are cosines. A blank query finds nothing.

        Raises:
            ValueError: k below 1.
            RuntimeError: nothing is indexed yet.
        """
        if self._vectors is None:
            raise RuntimeError("nothing is indexed yet: call build(documents) or load(folder) first")
        if k < 1:
            raise ValueError(f"k={k}: at least 1 document is needed")
        texts = named(queries)
        asked = {query_id: text for query_id, text in texts.items() if text.strip()}
        run = Run({query_id: {} for query_id in texts})
        if asked:
            scores, index = self._nearest(self._encode(list(asked.values())), min(k, len(self._ids)))
            for row, query_id in enumerate(asked):
                run[query_id] = {self._ids[i]: s for i, s in zip(index[row].tolist(), scores[row].tolist(), strict=True)}
        return run

    def save(self, folder: str | Path) -> Path:
        """Write vectors (safetensors) and ids (JSON, last)."""
        if self._vectors is None:
            raise RuntimeError("nothing is indexed yet: call build(documents) first")
        folder = Path(folder)
        write_bytes(folder / "vectors.safetensors", save({"vectors": self._vectors}))
        write_json(folder / "retriever.json", {"ids": self._ids})
        return folder

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder | str | Path | None = None) -> DenseRetriever:
        """Open an index, memory-mapped; the encoder must be the one it was built with.

        Raises:
            FileNotFoundError: the folder holds no index.
        """
        folder = Path(folder)
        retriever = cls(encoder)
        retriever._ids = json.loads((folder / "retriever.json").read_text())["ids"]
        retriever._vectors = load_file(folder / "vectors.safetensors")["vectors"]
        return retriever

    def _encode(self, texts: list[str]) -> Float[torch.Tensor, "texts dim"]:
        vectors = np.asarray(self.encoder.encode(texts, show_progress_bar=False), dtype=np.float32)
        return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=-1)

    def _nearest(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and positions of the k nearest documents, block by block."""
        assert self._vectors is not None  # `search` has checked
        best, position = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for start in range(0, len(self._vectors), _BLOCK):
            scores = queries @ self._vectors[start : start + _BLOCK].mT
            found, index = scores.topk(min(k, scores.shape[1]))
            best, position = torch.cat([best, found], 1), torch.cat([position, index + start], 1)
            best, order = best.topk(min(k, best.shape[1]))
            position = position.gather(1, order)
        return best, position
