"""Rankify's generator: a method, a model and a back end by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fullrank.search import protocols
from fullrank.search.answering import generate
from fullrank.search.extractive import ExtractiveReader
from fullrank.search.fusion_in_decoder import FusionInDecoder
from fullrank.search.language_model import LanguageModel
from fullrank.search.local_model import TransformersModel
from fullrank.search.rankify_data import Document
from fullrank.search.rankify_ranking import OPENAI, Retriever, chosen
from fullrank.search.react import ReActRAG
from fullrank.search.readers import METHODS
from fullrank.search.run import at_least_one
from fullrank.search.server_model import ServerModel

_GENERATORS = ("extractive", *METHODS, "react-rag", "fid")
_BACKENDS = ("huggingface", "openai", "vllm", "litellm")


class Generator:
    """Answers the questions of documents from their contexts, in the final order.

    Args:
        method: "extractive" (no model), "zero-shot", "basic-rag", "chain-of-thought-rag", "self-consistency-rag",
            "in-context-ralm", "react-rag" or "fid".
        model_name: a name, a folder, or an object: a language model, a function from a prompt to its completion.
        backend: "huggingface" for a model in this process; "openai", "vllm" or "litellm" for a server that speaks
            OpenAI's protocol, at `base_url`.
        n_contexts: given to the method per question.
        generation: options of the method, such as `max_new_tokens`.
        retriever: what "react-rag" searches, indexed.
        **options: of the model: `base_url`, `api_key` and others of `ServerModel`; `device`, `dtype` and others of
            `TransformersModel`.

    Raises:
        ValueError: an unknown method or backend, a method that lacks its model or retriever, or `n_contexts` below 1.
    """

    def __init__(
        self,
        method: str = "basic-rag",
        model_name: Any = None,
        backend: str = "huggingface",
        n_contexts: int = 5,
        generation: Mapping[str, Any] | None = None,
        retriever: Retriever | None = None,
        **options: Any,
    ) -> None:
        self.method, self.n_contexts = chosen(method, _GENERATORS, "method"), at_least_one(n_contexts, "n_contexts")
        self.generator = _generator(self.method, model_name, backend, dict(generation or {}), retriever, options)

    def generate(self, documents: Sequence[Document]) -> list[str]:
        """One answer per document, from the first `n_contexts` of its re-ranked contexts, or of the retrieved ones.

        Raises:
            ValueError: a blank question, or a context without id or text.
        """
        return [answer.text for answer in self.answers(documents)]

    def answers(self, documents: Sequence[Document]) -> list[protocols.Answer]:
        """The answers with their sources; see `generate`."""
        contexts = [
            [context.to_document() for context in document.final_contexts[: self.n_contexts]] for document in documents
        ]
        return generate(self.generator, [document.question.question for document in documents], contexts)


def _generator(
    method: str,
    model: Any,
    backend: str,
    generation: dict[str, Any],
    retriever: Retriever | None,
    options: dict[str, Any],
) -> protocols.Generator:
    if method == "extractive":
        if model is not None or options:
            raise ValueError("method='extractive' uses no model and no options of one; leave them out")
        return ExtractiveReader(**generation)
    if model is None and ("base_url" not in options or method == "fid"):
        raise ValueError(f"method={method!r} needs a model: model_name=..., or base_url=... of a server (but for fid)")
    if method == "fid":
        return _fusion_in_decoder(model, options, generation)
    reader = _model(model, chosen(backend, _BACKENDS, "backend"), options)
    if method != "react-rag":
        return METHODS[method](reader, **generation)
    if retriever is None:
        raise ValueError("method='react-rag' searches: give it an indexed one, retriever=Retriever(...).index(corpus)")
    return ReActRAG(reader, retriever, retriever.documents, **generation)


def _model(model: Any, backend: str, options: dict[str, Any]) -> Any:
    if model is not None and not isinstance(model, str | Path):
        return model if isinstance(model, LanguageModel) or not options else TransformersModel(model, **options)
    if backend == "huggingface" and "base_url" not in options:
        return TransformersModel(model, **options)
    keys = options.pop("api_keys", None)  # Rankify takes several
    address = options.pop("base_url", OPENAI if backend == "openai" else None)
    if address is None:
        raise ValueError(f"backend={backend!r} is a server: say where it is, base_url='http://localhost:8000/v1'")
    key = options.pop("api_key", keys[0] if keys else None)
    return ServerModel(address, None if model is None else str(model), key, **options)


def _fusion_in_decoder(model: Any, options: dict[str, Any], generation: dict[str, Any]) -> FusionInDecoder:
    if not isinstance(model, str | Path):
        if set(options) != {"tokenizer"}:
            raise ValueError("method='fid' with a model object needs its tokenizer, and nothing else: tokenizer=...")
        return FusionInDecoder(model, options["tokenizer"], **generation)
    local = TransformersModel(model, **options)
    return FusionInDecoder(local.model, local.tokenizer, **generation)
