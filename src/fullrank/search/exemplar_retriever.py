"""Exemplars by the inner product of encoded texts: what DQ-LoRe's two queries, EPR and CEIL search in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fullrank.search.dense import Backend, Encoder, check_backend, encoded, nearest
from fullrank.search.exemplars import Exemplar
from fullrank.search.faiss_index import FaissIndex
from fullrank.search.index_folder import open_index, save_index
from fullrank.search.run import at_least_one

_EFFORT = 64  # of an approximate search, as that of `DenseRetriever`
Found = tuple[list[int], list[float]]


class ExemplarRetriever:
    """Exemplars by the inner product of encoded texts.

    Args:
        encoder: an object with `encode(texts)`.
        index: "exact" compares with every vector; "flat", "hnsw" and "ivf" by faiss, see `DenseRetriever`.
        normalize: whether vectors get unit length; the paper's have their own.
        transform: applied to the vectors, such as a trained head.

    Attributes:
        exemplars: the pool.
        vectors: of the pool, (pool, d).
        truncated: how many texts were longer than the encoder reads, as far as it tells (`tokenizer` and
            `max_seq_length`, as SentenceTransformer and `ExemplarEncoder` do). The solution's end is what is left out.

    Raises:
        ValueError: an unknown index.
        MissingExtra: faiss, which the index needs, is not installed.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Backend = "exact",
        normalize: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_backend(index, "index")
        self.encoder, self.normalize, self.transform = encoder, normalize, transform
        self.backend: Backend = index
        self._faiss: FaissIndex | None = None  # of the vectors; made when it is needed
        self.exemplars: list[Exemplar] = []
        self.vectors = torch.zeros(0, 0)
        self.truncated = 0

    def index(self, exemplars: Sequence[Exemplar], by: Callable[[Exemplar], str] | None = None) -> ExemplarRetriever:
        """Encode exemplars, in place of those before.

        Args:
            exemplars: the pool.
            by: the text that is encoded; default question and solution.

        Raises:
            ValueError: none, an id twice, or an encoder that does not give one finite vector per text.
        """
        ids = [exemplar.id for exemplar in exemplars]
        if not ids:
            raise ValueError("exemplars=[] leaves nothing to choose from; give at least one")
        if len(set(ids)) < len(ids):
            twice = next(id for place, id in enumerate(ids) if id in ids[:place])
            raise ValueError(f"two exemplars have the same id {twice!r}; ids are unique in a pool")
        self.vectors = self.encode([by(exemplar) if by else exemplar.text for exemplar in exemplars])
        self.exemplars, self._faiss = list(exemplars), None
        return self

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Vectors of texts, as they are compared.

        Raises:
            ValueError: an encoder that does not give one finite vector per text.
        """
        if not texts:
            return torch.zeros(0, self.vectors.shape[1])
        vectors = encoded(self.encoder, list(texts))
        if self.transform is not None:
            vectors = self.transform(vectors).detach()
        self._count_truncated(texts)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def search(self, text: str, k: int, exclude_ids: Collection[str] = ()) -> list[tuple[Exemplar, float]]:
        """The k exemplars nearest to a text, and their inner products.

        Args:
            text: question and draft for an index by question and solution; the question for one by questions.
            k: how many at most.
            exclude_ids: exemplars that are left out, such as the question itself where it is in the pool.

        Raises:
            RuntimeError: nothing is indexed yet.
            ValueError: k below 1.
        """
        places, scores = self.places(self.encode([text]), k, [exclude_ids])[0]
        return [(self.exemplars[place], score) for place, score in zip(places, scores, strict=True)]

    def places(
        self, queries: Float[Tensor, "queries d"], k: int, exclude_ids: Sequence[Collection[str]] = ()
    ) -> list[Found]:
        """Places in the pool and inner products of the k nearest of every query vector.

        Args:
            queries: vectors.
            k: how many at most.
            exclude_ids: for every query the exemplars that are left out; empty for none.

        Raises:
            RuntimeError: nothing is indexed yet.
            ValueError: k below 1, vectors of another length, or another number of exclusions than of queries.
        """
        if not self.exemplars:
            raise RuntimeError("nothing is indexed yet: call index(exemplars) or load(folder) first")
        if queries.shape[-1] != self.vectors.shape[1]:
            raise ValueError(
                f"a query has {queries.shape[-1]} numbers, the index holds {self.vectors.shape[1]}; search with the "
                "encoder that the index was made with"
            )
        excluded = self._excluded(len(queries), exclude_ids)
        wanted = at_least_one(k) + max(map(len, excluded), default=0)
        scores, found = self._nearest(queries, min(wanted, len(self.vectors)))
        rows = zip(found.tolist(), scores.tolist(), excluded, strict=True)
        return [_kept(places, values, left_out, k) for places, values, left_out in rows]

    def save(self, folder: str | Path) -> Path:
        """Write vectors and exemplars; encoder and transform are given again to `load`.

        Raises:
            RuntimeError: nothing is indexed yet.
            OSError: the folder cannot be written.
        """
        if not self.exemplars:
            raise RuntimeError("nothing is indexed yet: call index(exemplars) first")
        about = {"exemplars": [asdict(exemplar) for exemplar in self.exemplars], "normalize": self.normalize}
        about["index"] = self.backend
        return save_index(
            folder,
            "ExemplarRetriever",
            about,
            lambda files: save_file({"vectors": self.vectors.contiguous()}, files / "vectors.safetensors"),
        )

    @classmethod
    def load(
        cls, folder: str | Path, encoder: Encoder, transform: Callable[[Tensor], Tensor] | None = None
    ) -> ExemplarRetriever:
        """Open what `save` wrote.

        Args:
            folder: where.
            encoder: the one that it was made with.
            transform: the one that it was made with.

        Raises:
            FileNotFoundError: the folder holds none.
            ValueError: it is damaged.
        """

        def read(about: dict[str, Any], files: Path) -> ExemplarRetriever:
            made = cls(encoder, about.get("index", "exact"), about["normalize"], transform)
            made.exemplars = [Exemplar(**entry) for entry in about["exemplars"]]
            made.vectors = load_file(files / "vectors.safetensors")["vectors"]
            if len(made.vectors) != len(made.exemplars):
                raise ValueError(f"{len(made.vectors)} vectors, {len(made.exemplars)} exemplars")
            return made

        return open_index(
            folder, "ExemplarRetriever", read, (SafetensorError, OSError, KeyError, TypeError, ValueError)
        )

    def _nearest(
        self, queries: Float[Tensor, "queries d"], k: int
    ) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
        """Scores, descending, and places; -1 where an approximate index finds fewer."""
        if self.backend == "exact":
            return nearest(queries, self.vectors, k)
        if self._faiss is None:
            self._faiss = FaissIndex.of(self.backend, self.vectors)
        return self._faiss.nearest(queries, k, _EFFORT)

    def _excluded(self, queries: int, exclude_ids: Sequence[Collection[str]]) -> list[set[int]]:
        if not exclude_ids:
            return [set() for _ in range(queries)]
        if len(exclude_ids) != queries:
            raise ValueError(f"exclude_ids has {len(exclude_ids)} entries for {queries} queries; one each is needed")
        place = {exemplar.id: number for number, exemplar in enumerate(self.exemplars)}
        return [{place[id] for id in ids if id in place} for ids in exclude_ids]

    def _count_truncated(self, texts: Sequence[str]) -> None:
        tokenizer: Any = getattr(self.encoder, "tokenizer", None)
        limit = getattr(self.encoder, "max_seq_length", None)
        if tokenizer is None or limit is None:
            return
        tokens = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        longer = sum(len(ids) > limit for ids in tokens)
        if longer and not self.truncated:
            warnings.warn(
                f"{longer} of {len(texts)} texts are longer than the {limit} tokens that the encoder reads: the ends "
                "of their solutions are left out (said once; `truncated` counts on)",
                stacklevel=3,
            )
        self.truncated += longer


def _kept(places: list[int], scores: list[float], excluded: set[int], k: int) -> Found:
    pairs = zip(places, scores, strict=True)
    kept = [(place, score) for place, score in pairs if place >= 0 and place not in excluded][:k]
    return [place for place, _ in kept], [score for _, score in kept]
