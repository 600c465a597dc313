"""Sessions and judgements of Baidu-ULTR as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from fullrank.order import DBN, PBM
from fullrank.order.baidu_features import (
    MATCH_FEATURES,
    annotation_features,
    click_sessions_of,
    match_features,
    session_features,
)
from fullrank.order.baidu_format import Annotation, Session, ShownDocument, TokenText
from fullrank.order.lightgbm_ranker import LightGBMRanker
from fullrank.order.ultr_ranker import ULTRRanker


def log(count=150):
    """Sessions in which documents that have the words of the query are clicked more often, and upper ones too."""
    rng = np.random.default_rng(0)
    sessions, judged = [], []
    for number in range(count):
        query = TokenText.of(rng.integers(0, 50, 3).tolist())
        shown = []
        for position in range(1, 6):
            good = bool(rng.random() < 0.4)
            title = TokenText.of([*(query.ids if good else rng.integers(60, 99, 3).tolist()), 5])
            click = int(rng.random() < (0.9 if good else 0.1) / position)
            shown.append(ShownDocument(position, f"d{number}-{position}", title, TokenText(b"1"), click=click))
            judged.append(Annotation(f"q{number}", query, title, TokenText(b"1"), 4 * good, 0))
        sessions.append(Session(f"q{number}", query, TokenText(), tuple(shown)))
    return sessions, judged


def test_features():
    found = dict(zip(MATCH_FEATURES, match_features([1, 2, 3], [9, 1, 2, 9], []), strict=True))
    assert found["query length"] == pytest.approx(np.log(4))
    assert found["title length"] == pytest.approx(np.log(5))
    assert found["title share of the query found"] == pytest.approx(2 / 3)
    assert found["title share of matching words"] == pytest.approx(1 / 2)
    assert found["title Jaccard index"] == pytest.approx(2 / 4)
    assert found["title pairs found"] == pytest.approx(1 / 2)
    assert found["title early match"] == pytest.approx(1 / 2)
    assert [value for name, value in found.items() if name.startswith("abstract")] == [0] * 6


@pytest.mark.parametrize("ranker", [ULTRRanker("dla", lr=0.3, epochs=5, batch_size=32), LightGBMRanker(trees=10)])
def test_rankers_learn_from_sessions(ranker):
    sessions, judged = log()
    test = annotation_features(judged)
    assert len(test.features) == 750
    assert ranker.fit(*session_features(sessions)).score(test.features, test.labels, test.qid) > 0.95


def test_judgements_are_grouped_by_the_text_of_the_query():
    _, judged = log(2)
    moved = [judged[0], judged[5], judged[1]._replace(qid="other")]
    rows = annotation_features(moved)
    assert rows.qid.tolist() == [0, 1, 0]
    assert rows.positions.tolist() == [1, 1, 2]


def test_sessions_for_click_models():
    sessions, _ = log(3)
    first, second, _, *others = sessions[0].documents
    gap = sessions[0]._replace(documents=(second, first, *others))
    headless = sessions[1]._replace(documents=sessions[1].documents[1:])
    found = click_sessions_of([gap, headless, sessions[1]._replace(documents=()), sessions[2]], 4)
    clicks, documents, queries, mask = found
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert documents[0].tolist() == ["d0-1", "d0-2", "", ""]
    assert clicks[1].tolist() == [bool(shown.click) for shown in sessions[2].documents[:4]]
    assert queries.tolist() == [sessions[0].query.decode(), sessions[2].query.decode()]
    assert DBN().fit(*found).click_probabilities(*found[1:]).shape == (2, 4)  # lists that are filled from the top


def test_a_click_model_learns_from_sessions():
    model = PBM().fit(*click_sessions_of(log()[0]))
    assert (np.diff(model.propensities()) < 0.1).all()
    assert model.propensities()[-1] < 0.6


def test_bad_calls():
    for call in (lambda: session_features([]), lambda: click_sessions_of([])):
        with pytest.raises(ValueError, match=r"no session has a document|no document was shown within list_size=10"):
            call()
    twice = log(1)[0][0]
    twice = twice._replace(documents=(*twice.documents, twice.documents[1]))
    with pytest.raises(ValueError, match=r"session 0 \(qid q0\) has two documents at position 2"):
        click_sessions_of([twice])
    with pytest.raises(ValueError, match="no document was judged"):
        annotation_features([])
