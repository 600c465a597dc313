"""Dense retrieval: any encoder, exact search by matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fullrank._optional import require
from fullrank.data import bundled_encoder
from fullrank.search.index_folder import open_index, save_index
from fullrank.search.protocols import Document, Queries, identifiers, named
from fullrank.search.run import Run, at_least_one

# Scored at a time: 256 MB of float32.
_QUERIES = 1_024
_DOCUMENTS = 65_536


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns texts into vectors, such as a SentenceTransformer."""

    def encode(self, texts: list[str], /) -> Any:
        """One vector per text, as an array or a tensor."""
        ...


def load_encoder(folder: str | Path | None = None, device: str = "cpu") -> Any:
    """A SentenceTransformer from a local folder; the bundled all-MiniLM-L6-v2 without one. No network is asked.

    Raises:
        MissingExtra: sentence-transformers or the bundled encoder is not installed.
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
        return library.SentenceTransformer(str(path), device=device, local_files_only=True)
    finally:
        if shown:
            progress.enable_progress_bar()


class DenseRetriever:
    """Retrieval by cosine of encoded texts, exact.

    Args:
        encoder: an object with `encode(texts)`, or a local model folder; the bundled all-MiniLM-L6-v2 by default. It is
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
            ValueError: no documents, an id twice, or an encoder that does not give one finite vector per text.
        """
        ids = identifiers(documents)
        self._vectors = self._encode([document.searched for document in documents])
        self._ids = ids
        return self

    def add(self, documents: Sequence[Document]) -> DenseRetriever:
        """Encode more documents; one with an id that is there takes the other's place.

        Raises:
            ValueError: see `build`.
        """
        if self._vectors is None:
            return self.build(documents)
        ids = identifiers(documents)
        vectors = self._encode([document.searched for document in documents])
        replaced = set(ids)
        stay = [place for place, id in enumerate(self._ids) if id not in replaced]
        self._vectors = torch.cat([self._vectors[stay], vectors])
        self._ids = [self._ids[place] for place in stay] + ids
        return self

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; scores are cosines. A blank query finds nothing.

        Raises:
            ValueError: k below 1, or an encoder whose vectors are not as long as the indexed ones.
            RuntimeError: nothing is indexed yet.
        """
        vectors = self._indexed()
        at_least_one(k)
        texts = named(queries)
        run = Run()
        for query_id in texts:
            run[query_id] = {}
        asked = [query_id for query_id, text in texts.items() if text.strip()]
        for start in range(0, len(asked), _QUERIES):
            block = asked[start : start + _QUERIES]
            asking = self._encode([texts[query_id] for query_id in block])
            if asking.shape[1] != vectors.shape[1]:
                raise ValueError(
                    f"the encoder gives {asking.shape[1]} numbers a text, the index holds {vectors.shape[1]}; search "
                    f"with the encoder that the index was built with"
                )
            for query_id, scores, rows in zip(block, *nearest(asking, vectors, min(k, len(vectors))), strict=True):
                run[query_id] = dict(zip((self._ids[i] for i in rows.tolist()), scores.tolist(), strict=True))
        return run

    def save(self, folder: str | Path) -> Path:
        """Write the vectors; whoever reads the folder meanwhile sees the ones before.

        Raises:
            RuntimeError: nothing is indexed yet.
            OSError: the folder cannot be written.
        """
        vectors = self._indexed()
        return save_index(
            folder,
            "DenseRetriever",
            {"ids": self._ids},
            lambda files: save_file({"vectors": vectors}, files / "vectors.safetensors"),
        )

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder | str | Path | None = None) -> DenseRetriever:
        """Open an index, memory-mapped; the encoder must be the one that it was built with.

        Raises:
            FileNotFoundError: the folder holds no index.
            ValueError: it is damaged or of another retriever.
        """
        return open_index(
            folder,
            "DenseRetriever",
            lambda about, files: cls(encoder)._read(about, files),
            (SafetensorError, OSError, KeyError, ValueError),
        )

    def _read(self, about: dict[str, Any], files: Path) -> DenseRetriever:
        self._ids, self._vectors = about["ids"], load_file(files / "vectors.safetensors")["vectors"]
        if self._vectors.ndim != 2 or len(self._vectors) != len(self._ids):
            raise ValueError(f"vectors of shape {tuple(self._vectors.shape)}, {len(self._ids)} ids")
        return self

    def _indexed(self) -> torch.Tensor:
        if self._vectors is None:
            raise RuntimeError("nothing is indexed yet: call build(documents) or load(folder) first")
        return self._vectors

    def _encode(self, texts: list[str]) -> Float[torch.Tensor, "texts dim"]:
        return torch.nn.functional.normalize(encoded(self.encoder, texts), dim=-1)


def encoded(encoder: Encoder, texts: list[str]) -> Float[torch.Tensor, "texts dim"]:
    """What an encoder gives for texts, in float32 on the CPU.

    Raises:
        ValueError: it is not one finite vector per text.
    """
    given = encoder.encode(texts)
    vectors = given.detach().cpu() if isinstance(given, torch.Tensor) else torch.from_numpy(np.asarray(given))
    vectors = vectors.float()
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"encoder gave shape {tuple(vectors.shape)} for {len(texts)} texts; (texts, dim) is needed")
    bad = (~vectors.isfinite()).any(dim=1).nonzero().flatten()
    if len(bad):
        place = int(bad[0])
        raise ValueError(f"encoder gave a vector that is not finite for text {place}, {texts[place][:80]!r}")
    return vectors


def nearest(
    queries: Float[torch.Tensor, "queries dim"], documents: Float[torch.Tensor, "documents dim"], k: int
) -> tuple[Float[torch.Tensor, "queries k"], Int[torch.Tensor, "queries k"]]:
    """The k largest inner products of every query, descending, and the rows of their documents.

    Documents are scored block by block, so that the memory needed does not grow with their number.
    """
    best = Nearest(len(queries), k)
    for start in range(0, len(documents), _DOCUMENTS):
        best.take(queries @ documents[start : start + _DOCUMENTS].mT, start)
    return best.scores, best.rows


class Nearest:
    """The k best documents of every query, from scores that come block by block.

    Args:
        queries: how many.
        k: documents that are kept for each.

    Attributes:
        scores: descending, (queries, k) or as many as there were.
        rows: numbers of their documents.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.scores: Float[torch.Tensor, "queries k"] = torch.empty(queries, 0)
        self.rows: Int[torch.Tensor, "queries k"] = torch.empty(queries, 0, dtype=torch.long)

    def take(self, scores: Float[torch.Tensor, "queries documents"], first: int) -> None:
        """Take the scores of the documents from number `first` on."""
        found, places = scores.topk(min(self.k, scores.shape[1]))
        every, rows = torch.cat([self.scores, found], 1), torch.cat([self.rows, places + first], 1)
        self.scores, order = every.topk(min(self.k, every.shape[1]))
        self.rows = rows.gather(1, order)
