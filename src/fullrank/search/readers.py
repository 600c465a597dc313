"""Generators by a word: the readers without a model, a model at home, a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullrank.search.answers import BasicRAG, ChainOfThoughtRAG, InContextRALM, SelfConsistencyRAG, ZeroShot
from fullrank.search.extractive import ExtractiveReader
from fullrank.search.language_model import LanguageModel
from fullrank.search.local_model import TransformersModel
from fullrank.search.protocols import Generator
from fullrank.search.server_model import ServerModel

METHODS: Mapping[str, type[BasicRAG]] = {
    "basic-rag": BasicRAG,
    "chain-of-thought-rag": ChainOfThoughtRAG,
    "self-consistency-rag": SelfConsistencyRAG,
    "in-context-ralm": InContextRALM,
    "zero-shot": ZeroShot,
}


def open_reader(
    reader: str = "extractive", model: str | None = None, method: str = "basic-rag", **options: Any
) -> Generator:
    """A generator by a word.

    Args:
        reader: "extractive" for the best sentence and "span" for the words of it that answer, both without a model; the
            address of a server that speaks OpenAI's protocol; or the folder or name of a transformers model.
        model: its name on the server.
        method: how a model is asked: "basic-rag", "chain-of-thought-rag", "self-consistency-rag",
            "in-context-ralm" or "zero-shot".
        **options: of `ServerModel`, or of `TransformersModel`.

    Raises:
        ValueError: an unknown method, or a model's name or options where there is no server or model to take them.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; accepted: {', '.join(METHODS)}")
    if is_server(reader):
        return METHODS[method](open_language_model(reader, model, **options))
    if model is not None:
        raise ValueError(f"model={model!r} names a model on a server, but reader={reader!r} is no address")
    if reader not in ("extractive", "span"):
        return METHODS[method](open_language_model(reader, **options))
    if options:
        raise ValueError(f"{', '.join(options)}: options of a model, but reader={reader!r} has none")
    return ExtractiveReader("sentence" if reader == "extractive" else "span")


def open_language_model(place: str, model: str | None = None, **options: Any) -> LanguageModel:
    """A language model by a word.

    Args:
        place: the address of a server that speaks OpenAI's protocol; or the folder or name of a transformers model.
        model: its name on the server; its only one by default.
        **options: of `ServerModel`, or of `TransformersModel`.
    """
    return ServerModel(place, model, **options) if is_server(place) else TransformersModel(place, **options)


def is_server(place: str) -> bool:
    """Whether a language model's place is the address of a server."""
    return place.startswith(("http://", "https://"))
