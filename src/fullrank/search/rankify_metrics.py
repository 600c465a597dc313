"""Rankify's metrics: accuracy of the first k contexts, TREC measures, and measures of answers, in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fullrank.order import evaluate
from fullrank.search.answer_measures import contains, exact_match, token_overlap
from fullrank.search.rankify_data import Context, Document
from fullrank.search.run import Qrels, Run, at_least_one


class Metrics:
    """Measures documents.

    Args:
        documents: with their contexts, and re-ranked ones where `use_reordered` asks for them.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)

    def top_k_accuracy(self, k: int, use_reordered: bool = False) -> float:
        """Per cent of the questions with an answer in one of the first k contexts.

        Raises:
            ValueError: no documents, k below 1, or a context that does not say whether it has an answer.
        """
        at_least_one(k)
        hits = [any(map(_has_answer, self._contexts(document, use_reordered)[:k])) for document in self._measured()]
        return 100 * sum(hits) / len(hits)

    def calculate_retrieval_metrics(
        self, ks: Sequence[int] = (1, 5, 10, 20, 50, 100), use_reordered: bool = False
    ) -> dict[str, float]:
        """`top_k_accuracy` of several k, as "top_1", "top_5", ...

        Raises:
            ValueError: see `top_k_accuracy`.
        """
        return {f"top_{k}": self.top_k_accuracy(k, use_reordered) for k in ks}

    def calculate_generation_metrics(self, predictions: Sequence[str]) -> dict[str, float]:
        """Exact match, F1, precision, recall and containment of answers, the best over the gold ones, in per cent.

        Args:
            predictions: one per document.

        Raises:
            ValueError: no documents, another number of predictions, or a document without answers.
        """
        if len(predictions) != len(self._measured()):
            raise ValueError(f"{len(predictions)} predictions for {len(self.documents)} documents; one each is needed")
        gold = [_gold(document) for document in self.documents]
        pairs = list(zip(predictions, gold, strict=True))
        overlaps = [token_overlap(said, answers) for said, answers in pairs]
        sums = {
            "exact_match": sum(exact_match(said, answers) for said, answers in pairs),
            "f1_score": sum(overlap.f1 for overlap in overlaps),
            "precision": sum(overlap.precision for overlap in overlaps),
            "recall": sum(overlap.recall for overlap in overlaps),
            "contains_match": sum(contains(said, answers) for said, answers in pairs),
        }
        return {name: 100 * total / len(pairs) for name, total in sums.items()}

    def calculate_trec_metrics(
        self,
        ndcg_cuts: Sequence[int] = (10,),
        map_cuts: Sequence[int] = (100,),
        mrr_cuts: Sequence[int] = (10,),
        qrel: str | Path | Mapping[str, Mapping[str, int]] | None = None,
        use_reordered: bool = False,
    ) -> dict[str, float]:
        """nDCG, MAP and MRR as trec_eval computes them with -c, as "ndcg@10", "map@100", "mrr@10".

        MRR@k looks at the first k contexts alone. Judged questions without a document count 0.

        Args:
            ndcg_cuts: how many contexts count.
            map_cuts: how many contexts count.
            mrr_cuts: how many contexts count.
            qrel: a TREC qrels file, or judgements by document by query.
            use_reordered: whether the re-ranked order counts.

        Raises:
            ValueError: no judgements, no documents, one without id, or no question in both.
            FileNotFoundError: there is no such file.
        """
        if qrel is None:
            raise ValueError("qrel=None: give judgements, or the path of a TREC qrels file")
        judged = Qrels.load(qrel) if isinstance(qrel, str | Path) else Qrels(qrel)
        cuts = {"ndcg": ("nDCG", ndcg_cuts), "map": ("AP", map_cuts), "mrr": ("RR", mrr_cuts)}
        names = {f"{name}@{k}": f"{measure}@{k}" for name, (measure, ks) in cuts.items() for k in ks}
        found = evaluate(judged, self.run(use_reordered), list(names.values()), missing="zero")
        return {name: found[measure] for name, measure in names.items()}

    def run(self, use_reordered: bool = False) -> Run:
        """The contexts as a run: their scores, or their places where the scores do not tell the order.

        Raises:
            ValueError: a document or a context without id, or one id twice.
        """
        run = Run()
        for document in self._measured():
            if document.id is None:
                raise ValueError(f"the question {document.question.question!r} has no id, by which judgements find it")
            if str(document.id) in run:
                raise ValueError(f"two questions have the id {str(document.id)!r}; ids are unique")
            run[str(document.id)] = _scores(self._contexts(document, use_reordered))
        return run

    def generate_trec_format(self, use_reordered: bool = False) -> str:
        """`run` as a TREC file."""
        return self.run(use_reordered).to_trec("fullrank")

    def _measured(self) -> list[Document]:
        if not self.documents:
            raise ValueError("documents=[] leaves nothing to measure; give at least one")
        return self.documents

    def _contexts(self, document: Document, use_reordered: bool) -> list[Context]:
        return document.final_contexts if use_reordered else document.contexts


def _scores(contexts: Sequence[Context]) -> dict[str, float]:
    ids = [str(context.id) for context in contexts]
    if any(context.id is None for context in contexts) or len(set(ids)) < len(ids):
        raise ValueError("contexts without ids, or two with one id, cannot be judged; give each its own")
    scores = [context.score for context in contexts]
    given = [score for score in scores if score is not None]
    if len(given) < len(scores) or given != sorted(given, reverse=True):
        given = [float(len(contexts) - place) for place in range(len(contexts))]
    return dict(zip(ids, given, strict=True))


def _has_answer(context: Context) -> bool:
    if context.has_answer is None:
        raise ValueError(
            f"context {context.id!r} does not say whether it has an answer (has_answer=None); retrieve for questions "
            f"with answers, or set it"
        )
    return context.has_answer


def _gold(document: Document) -> list[str]:
    if not document.answers.answers:
        raise ValueError(f"the question {document.question.question!r} has no answers to compare with")
    return document.answers.answers
