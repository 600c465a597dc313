"""Re-rankers by name, and over whole runs."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fullrank.search.answering import by_id, reorder_all
from fullrank.search.duo_t5 import DuoT5Scorer
from fullrank.search.echo_rank import EchoRankReranker
from fullrank.search.embedding_scorers import EncoderScorer, LateInteractionScorer, SparseScorer
from fullrank.search.fusion_order import FusionOrder
from fullrank.search.in_context import InContextScorer
from fullrank.search.layerwise import LayerwiseScorer
from fullrank.search.listwise import ListsModel, ListwiseModel, SlidingWindowReranker, TournamentReranker
from fullrank.search.listwise_prompts import IdentifierOrder, PromptedOrder
from fullrank.search.model_scorers import CrossEncoderScorer, MonoT5Scorer, RankT5Scorer, TwolarScorer
from fullrank.search.pairwise import PairsModel, PairwiseModel, PairwiseReranker, Strategy
from fullrank.search.pairwise_prompts import LikelihoodComparison, PromptedComparison
from fullrank.search.pointwise import PointwiseReranker
from fullrank.search.protocols import Document, Queries, Ranking, Reranker, named
from fullrank.search.query_likelihood import QueryLikelihoodScorer
from fullrank.search.run import Run, at_least_one
from fullrank.search.sesa_reranker import SESAReranker

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def _pointwise(scorer: Callable[..., Any]) -> Callable[..., Reranker]:
    return lambda model, **options: PointwiseReranker(scorer(model, **options))


def _windows(model_of: Callable[..., Any], most: int = 20, between: int = 10) -> Callable[..., Reranker]:
    def build(
        model: Any, *, window: int = most, step: int = between, passes: int = 1, **options: Any
    ) -> SlidingWindowReranker:
        return SlidingWindowReranker(model_of(model, **options), window, step, passes)

    return build


def _cross_encoder(model: Any, **options: Any) -> PointwiseReranker:
    whole = hasattr(model, "predict")  # a CrossEncoder of sentence-transformers, with its own tokenizer
    return PointwiseReranker(model if whole and not options else CrossEncoderScorer(model, **options))


def _tournament(model: Any, *, group: int = 5, winners: int = 2, top_k: int = 10, **options: Any) -> TournamentReranker:
    return TournamentReranker(FusionOrder(model, style="listt5", **options), group, winners, top_k)


def _comparisons(
    model: Any, *, logits: bool = False, strategy: Strategy = "all-pairs", top_k: int = 10, **options: Any
) -> PairwiseReranker:
    compare = LikelihoodComparison(model, **options) if logits else PromptedComparison(model, **options)
    return PairwiseReranker(compare, strategy, top_k)


def _fusion(model: Any, **options: Any) -> FusionOrder:
    return FusionOrder(model, style="lit5", **options)


#: Name -> what makes the re-ranker of a model and options.
RERANKERS: dict[str, Callable[..., Reranker]] = {
    "cross-encoder": _cross_encoder,
    "monobert": _cross_encoder,
    "monot5": _pointwise(MonoT5Scorer),
    "inranker": _pointwise(MonoT5Scorer),
    "rankt5": _pointwise(RankT5Scorer),
    "twolar": _pointwise(TwolarScorer),
    "upr": _pointwise(QueryLikelihoodScorer),
    "bi-encoder": _pointwise(EncoderScorer),
    "colbert": _pointwise(LateInteractionScorer),
    "splade": _pointwise(SparseScorer),
    "layerwise": _pointwise(LayerwiseScorer),
    "duot5": _pointwise(DuoT5Scorer),
    "prp": _comparisons,
    "echorank": EchoRankReranker,
    "rankgpt": _windows(PromptedOrder),
    "rankvicuna": _windows(PromptedOrder),
    "rankzephyr": _windows(PromptedOrder),
    "first": _windows(IdentifierOrder),
    "listt5": _tournament,
    "lit5": _windows(_fusion),
    "in-context": _pointwise(InContextScorer),
    "sesa": SESAReranker,
}

#: Further names that users know, such as those of Rankify.
_SYNONYMS = {
    "sentence-transformer-reranker": "bi-encoder",
    "transformer-ranker": "cross-encoder",
    "monobert-ranker": "monobert",
    "colbert-ranker": "colbert",
    "splade-reranker": "splade",
    "llm-layerwise-ranker": "layerwise",
    "ecorank": "echorank",
    "vicuna-reranker": "rankvicuna",
    "zephyr-reranker": "rankzephyr",
    "first-ranker": "first",
    "lit5dist": "lit5",
    "incontext-reranker": "in-context",
    "icr": "in-context",
}


def as_reranker(given: Any) -> Reranker:
    """A re-ranker as it is; a model of the user's in the re-ranker that asks it.

    Args:
        given: an object with `rerank(query, documents)`; with `order(query, texts)`, which is shown windows; with
            `compare(query, a, b)`, which compares all pairs; or with `score(query, texts)`, or such a function.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(given, Reranker):
        return given
    if isinstance(given, ListwiseModel | ListsModel):
        return SlidingWindowReranker(given)
    if isinstance(given, PairwiseModel | PairsModel):
        return PairwiseReranker(given)
    if not callable(given) and not any(hasattr(given, name) for name in ("score", "predict")):
        raise TypeError(
            f"{given!r} is {type(given).__name__}; a name of {', '.join(RERANKERS)}, or an object with rerank(query, "
            f"documents), score(query, texts), compare(query, a, b) or order(query, texts) is needed"
        )
    return PointwiseReranker(given)


def reranker(name: str | Any, model: Any = None, **options: Any) -> Reranker:
    """A re-ranker by the name that it is known by. No model is loaded before it is used.

    Args:
        name: one of `RERANKERS`, such as "cross-encoder", "monot5", "rankgpt" or "listt5"; names of Rankify work too.
            An object of yours is what `as_reranker` makes of it.
        model: what it asks: a model of transformers with `tokenizer=...`, its name or folder; an encoder; a language
            model. The bi-encoder is the bundled all-MiniLM-L6-v2 without one; methods that ask in words take
            `generate=...`, a function from prompts to completions, instead.
        options: of the model's class, such as `device`, `dtype`, `batch_size` and `max_length`; and of windows
            (`window`, `step`, `passes`), pairs (`logits`, `strategy`, `top_k`) or tournaments (`group`, `winners`,
            `top_k`).

    Raises:
        ValueError: an unknown name (the message has close ones), a method without its model, or an unknown option.
        TypeError: see `as_reranker`.
    """
    if not isinstance(name, str):
        if model is not None or options:
            raise ValueError(f"{', '.join(['model', *options])}: for a method by name; {name!r} is an object")
        return as_reranker(name)
    wanted = name.lower().replace("_", "-")
    wanted = _SYNONYMS.get(wanted, wanted)
    if wanted not in RERANKERS:
        near = [_SYNONYMS.get(n, n) for n in difflib.get_close_matches(wanted, [*RERANKERS, *_SYNONYMS], 3, 0.5)]
        meant = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
        raise ValueError(f"method={name!r} is not known; accepted: {', '.join(RERANKERS)}{meant}")
    if model is None and wanted != "bi-encoder" and "generate" not in options:
        raise ValueError(f"method={name!r} needs a model: an object, a name or a folder")
    try:
        return RERANKERS[wanted](model, **options)
    except TypeError as error:
        unknown = _UNEXPECTED.search(str(error))
        if unknown is None:
            raise
        raise ValueError(f"method={name!r} takes no option {unknown[1]}; leave it out") from error


def rerank_run(
    reranker: Reranker,
    queries: Queries,
    documents: Mapping[str, Document] | Sequence[Document],
    run: Mapping[Any, Mapping[Any, Any]],
    k: int = 100,
) -> Run:
    """The first k documents of every query in a better order, the others behind them as they were.

    Scores are the re-ranker's, and below them one less from place to place. As a run has its order from its scores
    alone, one that does not lie below the one before, as a float32, is lowered to the next number that does.

    Args:
        reranker: orders them; what scores pairs gets those of many queries together.
        queries: texts by query id.
        documents: by id, or a list of them.
        run: what was found.
        k: how many of each query.

    Raises:
        ValueError: k below 1, a document or a query of the run that is not among those given, or a re-ranker that loses
            documents.
    """
    at_least_one(k)
    texts, found, known = named(queries), Run(run), by_id(documents)
    better = Run()
    for id, ranking in zip(found, reorder_all(reranker, _rankings(texts, found, known, k)), strict=True):
        behind = [name for name, _ in found.ranking(id)[len(ranking.documents) :]]
        best = [document.id for document in ranking.documents]
        better[id] = dict(zip([*best, *behind], _falling(ranking.scores, len(behind)), strict=True))
    return better


def _rankings(texts: Mapping[str, str], found: Run, documents: Mapping[str, Document], k: int) -> Iterator[Ranking]:
    """What is to be ordered, query by query; scores are the places."""
    for id in found:
        if id not in texts:
            raise ValueError(f"the run has the query {id!r}, whose text is not among the queries")
        names = [name for name, _ in found.ranking(id, k)]
        unknown = next((name for name in names if name not in documents), None)
        if unknown is not None:
            raise ValueError(f"query {id!r}: document {unknown!r} of the run is not among the documents")
        places = tuple(-float(place) for place in range(len(names)))
        yield Ranking(texts[id], tuple(documents[name] for name in names), places)


def _falling(scores: Sequence[float], behind: int) -> list[float]:
    """Scores that fall in float32, and one less for every place behind them."""
    given = [*scores, *[-math.inf] * behind]
    falling: list[float] = []
    for score in given:
        wanted = score if score > -math.inf else (falling[-1] if falling else 0.0) - 1
        below = np.nextafter(np.float32(falling[-1]), np.float32(-np.inf)) if falling else np.float32(np.inf)
        falling.append(float(wanted) if np.float32(wanted) <= below else float(below))
    return falling
