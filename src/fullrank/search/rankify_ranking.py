"""Rankify's retriever and re-ranking: methods by name over documents of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fullrank.search import protocols
from fullrank.search.answer_measures import has_answer
from fullrank.search.answering import known, reordered
from fullrank.search.bm25 import BM25Retriever
from fullrank.search.dense import DenseRetriever
from fullrank.search.hybrid import HybridRetriever
from fullrank.search.hyde import HyDERetriever
from fullrank.search.language_model import LanguageModel
from fullrank.search.local_model import TransformersModel
from fullrank.search.model_indexes import MODEL_INDEXES, ModelIndex, model_index, open_model_index
from fullrank.search.protocols import Queries, Ranking
from fullrank.search.rankify_data import Context, Document
from fullrank.search.rerankers import as_reranker, reranker
from fullrank.search.run import Run, at_least_one
from fullrank.search.server_model import ServerModel

Corpus = Sequence[Document | Context | protocols.Document | Mapping[str, Any] | str]

OPENAI = "https://api.openai.com/v1"
_RETRIEVERS = ("bm25", "dense", "bge", "hybrid", "colbert", "splade", "unicoil", "hyde")
_SEARCHED = {"bge": "dense", "hybrid": "dense", "hyde": "dense"}  # method -> that of the index it searches, if another
_PROMPTED = ("rankgpt", "prp")  # re-rankers that ask a language model in words


class Retriever:
    """Finds contexts for questions in a corpus.

    Args:
        method: "bm25"; "dense" or "bge" for cosines of an encoder's vectors; "hybrid" for both, fused by reciprocal
            rank; "colbert" for late interaction of tokens; "splade" or "unicoil" for learned sparse weights; "hyde" for
            "dense" by passages that a language model imagines.
        n_docs: contexts per question.
        index_folder: an index that `fullrank index` made, with `--method` where a model makes it.
        encoder_name: a name, a folder or an object of the model that the method encodes with, or an encoder; for
            vectors of whole texts a local folder or an object with `encode(texts)`, the bundled all-MiniLM-L6-v2 by
            default. An index in a folder names its own.
        **options: of `BM25Retriever` such as `k1`, of `DenseRetriever` such as `backend`, of `HybridRetriever` such as
            `weights`, or of the encoder such as `tokenizer` and `device`. "hyde" needs `model`, a language model, a
            function from a prompt to its completion, or a name; with `base_url` and `api_key` on a server; and takes
            options of `HyDERetriever` such as `passages`.

    Attributes:
        documents: what is indexed, by id.

    Raises:
        ValueError: an unknown method, one without its model or index, or `n_docs` below 1.
        FileNotFoundError: the folder holds no index.
    """

    def __init__(
        self,
        method: str = "bm25",
        n_docs: int = 10,
        index_folder: str | Path | None = None,
        encoder_name: Any = None,
        **options: Any,
    ) -> None:
        self.method, self.n_docs = chosen(method, _RETRIEVERS, "method"), at_least_one(n_docs, "n_docs")
        self._encoder, self._options, self._folder = encoder_name, options, index_folder
        self._writer = _writer(self._options) if self.method == "hyde" else None
        self._indexed: dict[str, protocols.Document] = {}  # one object for good: ReAct reads from it
        self.documents: Mapping[str, protocols.Document] = self._indexed
        self._keyword: BM25Retriever | None = None
        self._found: ModelIndex | None = None
        self._retriever: protocols.Retriever | None = None
        if index_folder is not None:
            self._open(Path(index_folder))

    @classmethod
    def load(cls, folder: str | Path, method: str = "bm25", **options: Any) -> Retriever:
        """Open what `save_pretrained` or `fullrank index` wrote.

        Args:
            folder: of the index.
            method: see `Retriever`.
            **options: see `Retriever`, such as `n_docs` and `encoder_name`.

        Raises:
            ValueError, FileNotFoundError: see `Retriever`.
        """
        return cls(method, index_folder=folder, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the index as `fullrank index` does; an encoder object is given again when it is opened.

        Raises:
            RuntimeError: nothing is indexed yet.
            ValueError: the folder holds the index of another method, which would be left with other documents.
            OSError: the folder cannot be written.
        """
        self._check_indexed()
        for name, place in MODEL_INDEXES.items():
            if name != self._searched and (Path(folder) / place / "retriever.json").exists():
                raise ValueError(f"{folder} holds an index of the method {name!r} too; name another folder")
        keyword = BM25Retriever().build(self.documents.values()) if self._keyword is None else self._keyword
        if self._found is not None:  # before the words, by which an index is known to be there
            self._found.save(Path(folder) / MODEL_INDEXES[self._searched])
        return keyword.save(folder)

    def index(self, corpus: Corpus) -> Retriever:
        """Index a corpus, in place of the one before.

        Args:
            corpus: texts, dictionaries with id, title and contents (or text), `Context`s, or the contexts of
                `Document`s; without ids they are numbered.

        Raises:
            ValueError: an empty corpus, an id twice, a context without text, or an index that was opened from a folder.
            TypeError: one text in place of a list.
        """
        if self._folder is not None:
            raise ValueError(f"{self._folder} is searched; for a corpus make another Retriever, without index_folder")
        documents = collection(corpus)
        protocols.identifiers(documents)
        self._keyword, self._found = self._build(documents)
        self._retriever = self._asking()
        self._indexed.clear()
        self._indexed.update({document.id: document for document in documents})
        return self

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `fullrank.search.Retriever.search`.

        Raises:
            RuntimeError: nothing is indexed yet.
        """
        return self._check_indexed().search(queries, k)

    def retrieve(self, documents: Sequence[Document]) -> list[Document]:
        """Fill the `contexts` of documents, with `has_answer` where answers are known, and give them back.

        What was re-ranked before is forgotten.

        Raises:
            RuntimeError: see `search`.
        """
        run = self.search([document.question.question for document in documents], self.n_docs)
        for number, document in enumerate(documents):
            found = run.ranking(str(number), self.n_docs)
            document.contexts = [self._context(id, score, document.answers.answers) for id, score in found]
            document.reorder_contexts = None
        return list(documents)

    def _open(self, folder: Path) -> None:
        self._keyword = BM25Retriever.load(folder)
        self.documents = self._keyword.documents
        if self.method != "bm25":
            self._found = open_model_index(folder, self._searched, self._encoder, **self._index_options)
        self._retriever = self._asking()

    def _build(self, documents: list[protocols.Document]) -> tuple[BM25Retriever | None, ModelIndex | None]:
        """Indexes of words, and of a model."""
        if self.method == "bm25":
            return BM25Retriever(**self._options).build(documents), None
        found = model_index(self._searched, self._encoder, **self._index_options).build(documents)
        return BM25Retriever().build(documents) if self.method == "hybrid" else None, found

    def _check_indexed(self) -> protocols.Retriever:
        if self._retriever is None:
            raise RuntimeError("nothing is indexed yet: call index(corpus) first, or open a folder: index_folder=...")
        return self._retriever

    @property
    def _searched(self) -> str:
        return _SEARCHED.get(self.method, self.method)

    @property
    def _index_options(self) -> dict[str, Any]:
        return {} if self.method in ("hybrid", "hyde") else self._options

    def _asking(self) -> protocols.Retriever | None:
        """What answers queries, over the indexes of the method."""
        if self.method == "hybrid" and self._keyword is not None and self._found is not None:
            return HybridRetriever([self._keyword, self._found], **self._options)
        if isinstance(self._found, DenseRetriever) and self._writer is not None:
            return HyDERetriever(self._found, self._writer, **self._options)
        return self._keyword if self._found is None else self._found

    def _context(self, id: str, score: float, answers: Sequence[str]) -> Context:
        found = known(self.documents, id)
        holds = has_answer(found.text, answers) if answers else None
        return Context(score, holds, id, found.title, found.text)


class Reranking:
    """Orders the contexts of documents anew.

    Args:
        method: see `fullrank.search.reranker`; "rankgpt-api" and "prp-api" ask a server; or an object with
            `rerank(query, documents)`, `score(query, texts)`, `compare(query, a, b)` or `order(query, texts)`.
        model_name: a name, a folder or an object for the method to use.
        api_key: of the server.
        base_url: of the server; OpenAI's by default.
        **options: of the method.

    Raises:
        ValueError: an unknown method, or one without its model.
        TypeError: an object with none of these.
    """

    def __init__(
        self,
        method: str | Any,
        model_name: Any = None,
        api_key: str | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(method, str):
            self.reranker = as_reranker(method)
            return
        name = method.lower().removesuffix("-api")
        if name in _PROMPTED and model_name is not None:
            server = base_url is not None or name != method.lower()
            model_name = _asked_model(model_name, base_url or OPENAI if server else None, api_key)
        self.reranker = reranker(name, model_name, **options)

    def rank(self, documents: Sequence[Document]) -> list[Document]:
        """Fill `reorder_contexts`, with the re-ranker's scores, and give the documents back; `contexts` stay.

        Raises:
            ValueError: a context without id or text, two with one id, or a re-ranker that loses some.
        """
        for document in documents:
            document.reorder_contexts = self._reordered(document)
        return list(documents)

    def _reordered(self, document: Document) -> list[Context]:
        if not document.contexts:
            return []
        read = [context.to_document() for context in document.contexts]
        by_id = dict(zip(protocols.identifiers(read), document.contexts, strict=True))
        places = tuple(-float(place) for place in range(len(read)))
        new = reordered(self.reranker, Ranking(document.question.question, tuple(read), places))
        return [replace(by_id[found.id], score=score) for found, score in zip(new.documents, new.scores, strict=True)]


def chosen(name: str, names: Sequence[str], what: str) -> str:
    """A name, in small letters, that is one of several.

    Raises:
        ValueError: it is none; the message names close ones.
    """
    if name.lower() in names:
        return name.lower()
    close = get_close_matches(name.lower(), names, 3, 0.5)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"{what}={name!r} is not known; accepted: {', '.join(names)}{meant}")


def collection(corpus: Corpus) -> list[protocols.Document]:
    """A corpus in any form as documents; a context that several questions share stands there once."""
    if isinstance(corpus, str):
        raise TypeError(f"corpus={corpus[:60]!r} is one text; a list of texts is needed")
    found: list[protocols.Document] = []
    shared: dict[str, protocols.Document] = {}
    for number, entry in enumerate(corpus):
        if isinstance(entry, Document):
            shared.update({context.id: context for context in map(Context.to_document, entry.contexts)})
        else:
            found.append(_searched(entry, number))
    return [*found, *shared.values()]


def contexts_of(given: Sequence[Context | Mapping[str, Any] | str]) -> list[Context]:
    """Contexts in any form; without ids they are numbered."""
    return [_numbered(entry, number) for number, entry in enumerate(given)]


def _searched(entry: Context | protocols.Document | Mapping[str, Any] | str, number: int) -> protocols.Document:
    return entry if isinstance(entry, protocols.Document) else _numbered(entry, number).to_document()


def _numbered(entry: Context | Mapping[str, Any] | str, number: int) -> Context:
    if isinstance(entry, str):
        return Context(id=number, text=entry)
    context = entry if isinstance(entry, Context) else Context.from_dict(entry)
    return replace(context, id=number) if context.id is None else context


def _writer(options: dict[str, Any]) -> Any:
    """The language model of "hyde", whose options are taken out."""
    address, key = options.pop("base_url", None), options.pop("api_key", None)
    model = options.pop("model", None)
    if model is None:
        raise ValueError(
            'method="hyde" needs a language model that writes passages: model=..., an object, a function from a prompt '
            "to its completion, or a name"
        )
    return _asked_model(model, OPENAI if address is None and key is not None else address, key)


def _asked_model(model: Any, address: str | None, key: str | None) -> LanguageModel | Any:
    """A language model by its name, on a server if there is an address; an object as it is."""
    if not isinstance(model, str | Path):
        return model
    return TransformersModel(model) if address is None else ServerModel(address, str(model), key)
