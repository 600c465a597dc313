"""Dense retrieval: any encoder, exact search by matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file

from fullrank._model_hub import know_compressed_layers
from fullrank._optional import require
from fullrank.data import bundled_encoder
from fullrank.search.faiss_index import FaissIndex
from fullrank.search.index_folder import open_index
from fullrank.search.pretrained import check_device
from fullrank.search.protocols import Document, Queries, asked_in_blocks, named, whole_characters
from fullrank.search.run import Run, at_least_one
from fullrank.search.segmented_index import DAMAGE, SegmentedIndex
from fullrank.search.vector_segments import VectorSegment

Backend = Literal["exact", "flat", "hnsw", "ivf"]

_FAISS = "faiss.index"
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
        ValueError: a device that this machine has not.
    """
    path = bundled_encoder() if folder is None else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; an encoder is loaded from a local Hugging Face folder")
    check_device(device)
    library = require("sentence_transformers", "search")
    progress = require("transformers.utils.logging", "search")
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # it would write over ours
    know_compressed_layers(path)
    try:
        return library.SentenceTransformer(str(path), device=device, local_files_only=True)
    finally:
        if shown:
            progress.enable_progress_bar()


class DenseRetriever(SegmentedIndex[VectorSegment]):
    """Retrieval by cosine of encoded texts.

    Args:
        encoder: an object with `encode(texts)`, or a local model folder, which a saved index names; the bundled
            all-MiniLM-L6-v2 by default. It is loaded at first use.
        backend: "exact" compares with every vector, block by block, from a file that is memory-mapped; "flat" does so
            by faiss, and "hnsw" and "ivf" approximately, for large collections (see `FaissIndex`). An index of faiss
            is in memory, beside the vectors, and is written whole each time that it is saved.
        effort: of "hnsw" and "ivf": how many candidates the walk keeps (efSearch), or how many lists are looked into
            (nprobe). More finds more, and takes longer.
        device: where the model of a folder goes.

    Raises:
        MissingExtra: faiss, which the backend needs, is not installed.
        ValueError: an unknown backend, or an effort below 1.
    """

    segment_size = 65_536

    def __init__(
        self,
        encoder: Encoder | str | Path | None = None,
        backend: Backend = "exact",
        effort: int = 64,
        device: str = "cpu",
    ) -> None:
        check_backend(backend, "backend")
        self._encoder, self._device = encoder, device
        self._folder = str(Path(encoder).resolve()) if isinstance(encoder, str | Path) else None
        self.backend: Backend = backend
        self.effort = at_least_one(effort, "effort")
        self._faiss: FaissIndex | None = None  # of the vectors; made when it is needed
        super().__init__()

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded."""
        if self._encoder is None or isinstance(self._encoder, str | Path):
            self._encoder = load_encoder(self._encoder, self._device)
        return self._encoder

    def build(self, documents: Iterable[Document], scratch: str | Path | None = None) -> DenseRetriever:
        """Encode documents, in place of what was indexed before.

        Args:
            documents: see `SegmentedIndex.build`.
            scratch: see `SegmentedIndex.build`.

        Raises:
            ValueError: no documents, an id twice, or an encoder that does not give one finite vector per text.
        """
        super().build(documents, scratch)
        self._faiss = None
        return self

    def add(self, documents: Iterable[Document], scratch: str | Path | None = None) -> DenseRetriever:
        """Encode more documents; one with an id that is there takes the other's place.

        An index of faiss is made anew at the next search where one does, as after `delete`.

        Args:
            documents: see `SegmentedIndex.build`.
            scratch: see `SegmentedIndex.build`.

        Raises:
            ValueError: see `build`, or vectors that are not as long as the indexed ones.
        """
        super().add(documents, scratch)
        if self._faiss is not None and self._faiss.shape[0] < len(self):
            self._faiss.add(self._vectors(self._faiss.shape[0]))
        return self

    def encode(self, texts: list[str]) -> Float[torch.Tensor, "texts dim"]:
        """Vectors of texts, of length 1.

        Raises:
            ValueError: an encoder that does not give one finite vector per text.
        """
        return torch.nn.functional.normalize(encoded(self.encoder, texts), dim=-1)

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; scores are cosines. A blank query finds nothing, and a warning names it.

        Raises:
            ValueError: k below 1, or an encoder whose vectors are not as long as the indexed ones.
            RuntimeError: nothing is indexed yet.
        """
        self._check_indexed()
        at_least_one(k)
        texts = named(queries)
        run = Run({query_id: {} for query_id in texts})
        for block in asked_in_blocks(texts, _QUERIES):
            run.update(self.search_vectors(block, self.encode([texts[query_id] for query_id in block]), k))
        return run

    def search_vectors(self, queries: Sequence[str], vectors: Float[torch.Tensor, "queries dim"], k: int = 10) -> Run:
        """The k best documents for vectors; scores are cosines.

        Args:
            queries: ids of the queries.
            vectors: of the queries, of any length but 0.
            k: how many at most.

        Raises:
            ValueError: k below 1, another number of vectors than of ids, or vectors that are not as long as the indexed
                ones.
            RuntimeError: nothing is indexed yet.
        """
        self._check_indexed()
        count = min(at_least_one(k), len(self))
        if len(queries) != len(vectors):
            raise ValueError(f"vectors has {len(vectors)} rows for {len(queries)} queries; one each is needed")
        self._check_width(vectors)
        asking = torch.nn.functional.normalize(vectors, dim=-1)
        run = Run()
        index = self._index() if count else None
        found = self._nearest(asking, count) if index is None else index.nearest(asking, count, self.effort)
        for query_id, scores, rows in zip(queries, *found, strict=True):
            held = rows >= 0
            run[query_id] = dict(zip(self._ids(rows[held].numpy()), scores[held].tolist(), strict=True))
        return run

    @classmethod
    def load(
        cls,
        folder: str | Path,
        encoder: Encoder | str | Path | None = None,
        backend: Backend | None = None,
        device: str = "cpu",
    ) -> DenseRetriever:
        """Open an index, memory-mapped; the encoder must be the one that it was built with.

        Args:
            folder: of the index.
            encoder: see `DenseRetriever`; by default the one of the folder that the index names, if it names one.
            backend: by default the one that it was saved with.
            device: see `DenseRetriever`.

        Raises:
            FileNotFoundError: the folder holds no index.
            MissingExtra: faiss, which the backend needs, is not installed.
            ValueError: it is damaged or of another retriever, or an unknown backend.
        """
        if backend is not None:
            cls(encoder, backend)

        def read(about: dict[str, Any], files: Path) -> DenseRetriever:
            saved = about.get("backend", "exact")  # which indexes of earlier versions do not name
            chosen = about.get("encoder") if encoder is None else encoder
            retriever = cls(chosen, backend or saved, about.get("effort", 64), device)._read(about, files)
            if retriever.backend == saved != "exact":
                retriever._faiss = FaissIndex.read(saved, files / _FAISS)
                retriever._check_faiss()
            return retriever

        return open_index(folder, cls.__name__, read, (SafetensorError, *DAMAGE))

    # --- within --------------------------------------------------------------------------------------------------

    def _read(self, about: dict[str, Any], files: Path) -> DenseRetriever:
        if "ids" not in about:
            return self._take(VectorSegment, about, files)
        whole = VectorSegment(about["ids"], load_file(files / "vectors.safetensors")["vectors"])
        self._segments = [whole] if len(whole) else []  # of an earlier version, which knew no segments
        self._built = True
        self._refresh()
        return self

    def _segment(self, documents: Sequence[Document]) -> VectorSegment:
        vectors = self.encode([document.searched for document in documents])
        self._check_width(vectors)
        return VectorSegment([document.id for document in documents], vectors)

    def _about(self) -> dict[str, Any]:
        return {"encoder": self._folder, "effort": self.effort, "backend": self.backend if len(self) else "exact"}

    def _put(self, files: Path) -> None:
        index = self._index() if len(self) else None
        if index is not None:
            index.write(files / _FAISS)

    def _without(self, ids: Iterable[str]) -> list[VectorSegment]:
        kept = super()._without(ids)
        if sum(map(len, kept)) < len(self):
            self._faiss = None
        return kept

    def _vectors(self, first: int = 0) -> Float[torch.Tensor, "documents dim"]:
        """Those of all documents from one on."""
        segments = zip(self._segments, self._offsets[:-1].tolist(), strict=True)
        return torch.cat([segment.vectors[max(first - offset, 0) :] for segment, offset in segments])

    def _index(self) -> FaissIndex | None:
        """The index of faiss; None without one."""
        if self.backend == "exact":
            return None
        if self._faiss is None:
            self._faiss = FaissIndex.of(self.backend, self._vectors())
        return self._faiss

    def _nearest(
        self, queries: Float[torch.Tensor, "queries dim"], k: int
    ) -> tuple[Float[torch.Tensor, "queries k"], Int[torch.Tensor, "queries k"]]:
        """See `nearest`."""
        best = Nearest(len(queries), k)
        for segment, offset in zip(self._segments, self._offsets[:-1].tolist(), strict=True):
            best.compare(queries, segment.vectors, offset)
        return best.scores, best.rows

    def _check_width(self, vectors: torch.Tensor) -> None:
        if self._segments and vectors.shape[1] != self._segments[0].dim:
            raise ValueError(
                f"the encoder gives {vectors.shape[1]} numbers a text, the index holds {self._segments[0].dim}; use "
                f"the encoder that the index was built with"
            )

    def _check_faiss(self) -> None:
        shape = (len(self), self._segments[0].dim)
        if self._faiss is not None and self._faiss.shape != shape:
            raise ValueError(f"an index of faiss of shape {self._faiss.shape}, vectors of shape {shape}")


def check_backend(backend: str, name: str) -> None:
    """Raise ValueError for an unknown back end, and MissingExtra for one of faiss where that is not installed.

    Args:
        backend: see `DenseRetriever`.
        name: of the argument.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"{name}={backend!r} is not known; accepted: {', '.join(get_args(Backend))}")
    if backend != "exact":
        require("faiss", "faiss")


def encoded(encoder: Encoder, texts: list[str]) -> Float[torch.Tensor, "texts dim"]:
    """What an encoder gives for texts, in float32 on the CPU.

    Raises:
        ValueError: it is not one finite vector per text.
    """
    given = encoder.encode([whole_characters(text) for text in texts])
    vectors = given.detach().cpu() if isinstance(given, torch.Tensor) else torch.from_numpy(np.asarray(given))
    vectors = vectors.float()
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"encoder gave shape {tuple(vectors.shape)} for {len(texts)} texts; (texts, dim) is needed")
    bad = (~vectors.isfinite()).any(dim=1).nonzero().flatten()
    if len(bad):
        place = int(bad[0])
        raise ValueError(f"encoder gave a vector that is not finite for text {place}, {texts[place][:80]!r}")
    return vectors


def as_float(vectors: Any) -> torch.Tensor:
    """Vectors of numpy or torch as a tensor of at least float32: half precision would tie what differs."""
    tensor = (
        vectors if isinstance(vectors, torch.Tensor) else torch.from_numpy(np.require(vectors, requirements=("C", "W")))
    )
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def nearest(
    queries: Float[torch.Tensor, "queries dim"], documents: Float[torch.Tensor, "documents dim"], k: int
) -> tuple[Float[torch.Tensor, "queries k"], Int[torch.Tensor, "queries k"]]:
    """The k largest inner products of every query, descending, and the rows of their documents.

    Documents are scored block by block, so that the memory needed does not grow with their number.
    """
    best = Nearest(len(queries), k)
    best.compare(queries, documents, 0)
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

    def compare(
        self, queries: Float[torch.Tensor, "queries dim"], documents: Float[torch.Tensor, "documents dim"], first: int
    ) -> None:
        """Take the inner products with the documents from number `first` on, block by block."""
        for start in range(0, len(documents), _DOCUMENTS):
            self.take(queries @ documents[start : start + _DOCUMENTS].mT, first + start)

    def take(self, scores: Float[torch.Tensor, "queries documents"], first: int) -> None:
        """Take the scores of the documents from number `first` on."""
        found, places = scores.topk(min(self.k, scores.shape[1]))
        every, rows = torch.cat([self.scores, found], 1), torch.cat([self.rows, places + first], 1)
        self.scores, order = every.topk(min(self.k, every.shape[1]))
        self.rows = rows.gather(1, order)
