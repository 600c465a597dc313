"""Rankify's metrics: exact to trec_eval, and right in any script."""

from __future__ import annotations

import numpy as np
import pytest

from fullrank.search.rankify import Context, Document, Metrics


def test_metrics_of_retrieval():
    documents = [
        Document("q", "a", [Context(3, False, 1), Context(2, True, 2)], id=1),
        Document("r", "b", [Context(3, True, 1), Context(2, False, 2)], id=2),
    ]
    documents[0].reorder_contexts = documents[0].contexts[::-1]
    metrics = Metrics(documents)
    assert metrics.calculate_retrieval_metrics([1, 2]) == {"top_1": 50.0, "top_2": 100.0}
    assert metrics.calculate_retrieval_metrics([1], use_reordered=True) == {"top_1": 100.0}
    assert list(metrics.calculate_retrieval_metrics()) == [f"top_{k}" for k in (1, 5, 10, 20, 50, 100)]


@pytest.mark.golden("rankify", kind="answer metrics")
def test_metrics_of_answers(case):
    spec = case.spec
    documents = [Document("q", gold) for gold in spec["gold_answers"]]
    measured = Metrics(documents).calculate_generation_metrics(spec["predictions"])
    for name, key in (("exact_match", "exact_match"), ("f1_score", "f1")):
        expected = 100 * np.mean(spec["recommended"][key])
        assert measured[name] == pytest.approx(expected, abs=spec["tolerance"])


def test_trec_metrics_are_those_of_trec_eval(tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels = {"1": {"a": 2, "b": 1, "c": 0}, "2": {"a": 1}, "3": {"z": 1}}
    documents = [
        Document("q", "x", [Context(1.0, False, "c"), Context(1.0, False, "a"), Context(0.5, False, "b")], id=1),
        Document("r", "x", [Context(9.0, False, "n"), Context(2.0, False, "a")], id="2"),
    ]
    file = tmp_path / "qrels.txt"
    file.write_text("".join(f"{q} 0 {d} {g}\n" for q, grades in qrels.items() for d, g in grades.items()))
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.100", "recip_rank"})
    values = oracle.evaluate(dict(Metrics(documents).run()))
    for qrel in (qrels, file, str(file)):
        measured = Metrics(documents).calculate_trec_metrics(mrr_cuts=[1, 10], qrel=qrel)
        for name, key in (("ndcg@10", "ndcg_cut_10"), ("map@100", "map_cut_100"), ("mrr@10", "recip_rank")):
            assert measured[name] == pytest.approx(sum(row[key] for row in values.values()) / 3, abs=1e-12)
        assert measured["mrr@1"] == 0.0  # a cut-off that counts: "a" of the first question loses its tie
    documents[1].reorder_contexts = [Context(None, False, "a"), Context(None, False, "n")]
    again = Metrics(documents).calculate_trec_metrics(mrr_cuts=[1], qrel=qrels, use_reordered=True)
    assert again["mrr@1"] == pytest.approx(1 / 3)


def test_places_stand_for_scores_that_do_not_tell_the_order():
    contexts = [Context(1.0, None, "b"), Context(5.0, None, "a"), Context(None, None, "c")]
    run = Metrics([Document("q", "x", contexts, id="q")]).run()
    assert [id for id, _ in run.ranking("q")] == ["b", "a", "c"]
    text = Metrics([Document("q", "x", contexts[:2], id="q")]).generate_trec_format()
    assert text.splitlines()[0].split()[:4] == ["q", "Q0", "b", "1"]


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match=r"documents=\[\] leaves nothing to measure"):
        Metrics([]).calculate_retrieval_metrics()
    one = Metrics([Document("q", None, [Context(1, None, 1)])])
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        one.top_k_accuracy(0)
    with pytest.raises(ValueError, match="context 1 does not say whether it has an answer"):
        one.top_k_accuracy(1)
    with pytest.raises(ValueError, match="2 predictions for 1 documents"):
        one.calculate_generation_metrics(["a", "b"])
    with pytest.raises(ValueError, match="the question 'q' has no answers to compare with"):
        one.calculate_generation_metrics(["a"])
    with pytest.raises(ValueError, match="the question 'q' has no id, by which judgements find it"):
        one.calculate_trec_metrics(qrel={"q": {"1": 1}})
    with pytest.raises(ValueError, match="qrel=None: give judgements, or the path"):
        one.calculate_trec_metrics()
    with pytest.raises(FileNotFoundError):
        one.calculate_trec_metrics(qrel="nowhere.txt")
    with pytest.raises(ValueError, match="two questions have the id '1'"):
        Metrics([Document("q", id=1), Document("r", id="1")]).run()
    with pytest.raises(ValueError, match="contexts without ids, or two with one id"):
        Metrics([Document("q", None, [Context(1, None, 1), Context(1, None, "1")], id=1)]).run()
