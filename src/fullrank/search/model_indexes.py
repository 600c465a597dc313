"""Indexes that a model makes, by the name of their method, in folders beside the index of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fullrank.search.colbert_encoder import ColBERTEncoder, TokenEncoder
from fullrank.search.colbert_retriever import ColBERTRetriever
from fullrank.search.dense import DenseRetriever
from fullrank.search.learned_sparse import SparseEncoder, sparse_encoder
from fullrank.search.learned_sparse_retriever import LearnedSparseRetriever
from fullrank.search.segmented_index import check_made

ModelIndex = DenseRetriever | ColBERTRetriever | LearnedSparseRetriever

#: Method -> its folder below that of the index of words.
MODEL_INDEXES = {"dense": "meaning", "colbert": "colbert", "splade": "splade", "unicoil": "unicoil"}


def model_index(method: str, model: Any = None, **options: Any) -> ModelIndex:
    """An empty index of a method.

    Args:
        method: one of `MODEL_INDEXES`.
        model: a name, a folder or an object of transformers; or an encoder, as the method's retriever takes. "dense"
            has the bundled all-MiniLM-L6-v2 without one.
        **options: of `DenseRetriever`; or of the encoder, such as `tokenizer`, `device` or `max_length`.

    Raises:
        ValueError: no model where one is needed, or options of an encoder that is made already.
    """
    if method == "dense":
        return DenseRetriever(model, **options)
    if model is None:
        raise ValueError(f"method={method!r} needs a model: an object, a name or a folder")
    if method == "colbert":
        return ColBERTRetriever(_encoder(method, model, options))
    return LearnedSparseRetriever(_encoder(method, model, options))


def open_model_index(folder: str | Path, method: str, model: Any = None, **options: Any) -> ModelIndex:
    """The index of a method that stands beside an index of words.

    Args:
        folder: of the index of words.
        method: one of `MODEL_INDEXES`.
        model: see `model_index`; by default the one that the index names.
        **options: see `model_index`.

    Raises:
        ValueError: there is none, or it is damaged.
        LookupError: it names no model, and none is given.
    """
    place = Path(folder) / MODEL_INDEXES[method]
    if not (place / "retriever.json").exists():
        raise ValueError(f"{folder} has no index of the method {method!r}: fullrank index ... --method {method}")
    if method == "dense":
        return DenseRetriever.load(place, model, **options)
    kind = ColBERTRetriever if method == "colbert" else LearnedSparseRetriever
    return kind.load(place, **options) if model is None else kind.load(place, _encoder(method, model, options))


def _encoder(method: str, model: Any, options: dict[str, Any]) -> Any:
    if isinstance(model, TokenEncoder | SparseEncoder):  # they have the same methods
        check_made(options)
        return model
    return ColBERTEncoder(model, **options) if method == "colbert" else sparse_encoder(method, model, **options)
