"""The estimator, and files of judged documents."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from sklearn.base import clone
from torch import nn

from fullrank.order import simulate_clicks
from fullrank.order.svmlight import load_svmlight, read_svmlight
from fullrank.order.ultr_ranker import ULTRRanker, places_within


def clicked(lists=400, ranks=6, features=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((lists * ranks, features)).astype(np.float32)
    grades = np.clip(np.round(X[:, 0] * 1.5 + 1.5), 0, 4).astype(int)
    clicks = simulate_clicks(grades.reshape(lists, ranks), rng=rng).ravel()
    return X, grades, clicks, np.repeat(np.arange(lists), ranks)


@pytest.mark.parametrize("objective", ["naive", "ips", "dla", "rem", "pairdebias", "two-tower"])
def test_it_learns_what_was_clicked(objective):
    X, grades, clicks, qid = clicked()
    ranker = ULTRRanker(objective, propensities=[0.68, 0.61, 0.48, 0.34, 0.28, 0.2], lr=0.3, epochs=4, batch_size=64)
    assert ranker.fit(X, clicks, qid).score(X, grades, qid) > 0.85


def test_it_is_an_estimator(tmp_path):
    X, _, clicks, qid = clicked(60)
    ranker = clone(ULTRRanker("naive", "mlp", epochs=2, random_state=3))
    scores = ranker.fit(X, clicks, qid).predict(X)
    assert np.array_equal(scores, clone(ranker).fit(X, clicks, qid).predict(X))
    again = ULTRRanker.load(ranker.save(tmp_path / "ranker"))
    assert np.array_equal(again.predict(X), scores)
    order = np.random.default_rng(0).permutation(len(X))
    shuffled = clone(ranker).fit(X[order], clicks[order], qid[order], positions=places_within(qid)[order] + 1)
    assert np.allclose(shuffled.predict(X), scores, atol=1e-5)
    assert again.get_params() == ranker.get_params()
    for objective in ("ips", "dla", "rem", "pairdebias", "two-tower"):
        e = [1, 0.8, 0.5, 0.4, 0.3, 0.2] if objective == "ips" else None
        ranker = ULTRRanker(objective, propensities=e, lr=0.5, list_size=6).fit(X, clicks, qid)
        again = ULTRRanker.load(ranker.save(tmp_path / objective))
        assert again.objective == objective
        assert (again.lr, again.list_size) == (0.5, 6)
        assert again.objective_.propensities().tolist() == ranker.objective_.propensities().tolist()
        assert np.array_equal(again.fit(X, clicks, qid).predict(X), ranker.predict(X))
    own = ULTRRanker("dla", nn.Linear(5, 1)).fit(X, clicks, qid)
    own.save(tmp_path / "own")
    with pytest.raises(ValueError, match=r"load\(folder, scorer=...\)"):
        ULTRRanker.load(tmp_path / "own")
    assert np.array_equal(ULTRRanker.load(tmp_path / "own", nn.Linear(5, 1)).predict(X), own.predict(X))


def test_documents_below_the_list_are_left_out():
    X, _, clicks, qid = clicked(20)
    ranker = ULTRRanker("dla", list_size=3).fit(X, clicks, qid)
    assert len(ranker.objective_.propensities()) == 3


FILE = "2 qid:7 1:0.5 3:2 # a comment\n0 qid:7 2:1\n\n1 qid:b 1:1e-3\n"


def test_files(tmp_path):
    found = list(read_svmlight(io.StringIO(FILE)))
    assert found[0] == (2, "7", {1: 0.5, 3: 2.0})
    packed = tmp_path / "x.svm.gz"
    with gzip.open(packed, "wt") as file:
        file.write(FILE)
    moved = packed.rename(tmp_path / "no suffix")
    with moved.open("rb") as file:
        assert list(read_svmlight(file)) == list(read_svmlight(moved))
    latin = tmp_path / "latin"
    latin.write_bytes(b"\xef\xbb\xbf" + FILE.replace("comment", "commentaire \xe9crit").encode("latin-1"))
    assert list(read_svmlight(latin)) == found
    (tmp_path / "short.gz").write_bytes(moved.read_bytes()[:-12])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        load_svmlight(tmp_path / "short.gz")
    loaded = load_svmlight(moved)
    assert loaded.features.shape == (3, 3)
    assert loaded.grades.tolist() == [2, 0, 1]
    assert loaded.qid.tolist() == [0, 0, 1]
    features, grades, mask = loaded.lists()
    assert features.shape == (2, 2, 3)
    assert mask.tolist() == [[True, True], [True, False]]
    assert grades.tolist() == [[2, 0], [1, 0]]


def test_bad_calls(tmp_path, unchecked):
    X, _, clicks, qid = clicked(4)
    for call, words in [
        (lambda: ULTRRanker().fit(X, clicks[:-1], qid), "24 documents, 23 clicks and 24 lists"),
        (lambda: ULTRRanker().fit(X, clicks, qid, np.zeros(24, dtype=int)), "they count from 1"),
        (lambda: ULTRRanker().fit(X, clicks, qid, np.ones(24, dtype=int)), "^list 0 has 6 documents at position 1"),
        (lambda: ULTRRanker().fit(X, clicks, qid, np.full(24, 99)), "no document was shown within list_size=10"),
        (lambda: ULTRRanker(scorer="tree").fit(X, clicks, qid), "scorer='tree' is not known"),
        (lambda: ULTRRanker("ips").fit(X, clicks, qid), "needs propensities"),
        (lambda: ULTRRanker(lr=-1.0).fit(X, clicks, qid), "lr=-1.0 is not accepted"),
        (lambda: ULTRRanker(batch_size=0).fit(X, clicks, qid), "batch_size=0 is not accepted"),
        (lambda: ULTRRanker(epochs=0).fit(X, clicks, qid), "epochs=0 is not accepted"),
        (lambda: ULTRRanker().fit(X, clicks, qid).predict(X[:, :2]), "X has 2 features, the ranker was trained on 5"),
        (lambda: ULTRRanker().fit(X, clicks, qid).score(X, clicks[:3], qid), "24 documents, 3 grades and 24 lists"),
        (lambda: ULTRRanker().fit(X, clicks, qid).score(X, 0 * clicks, qid), "grades hold no relevant document"),
        (lambda: load_svmlight(io.StringIO("")), "holds no document"),
        (lambda: load_svmlight(io.StringIO("1 qid:a 9:1\n"), 3), "has feature 9"),
        (lambda: load_svmlight(io.StringIO("1 qid:a 1:1\nx qid:a 1:1\n")), "line 2 is malformed"),
        (lambda: load_svmlight(io.StringIO("1 id:a 1:1\n")), "line 1 is malformed"),
        (lambda: load_svmlight(io.StringIO("-1 qid:a 1:1\n")), "line 1 is malformed"),
        (lambda: load_svmlight(["1.5 qid:a 1:1"]), "line 1 is malformed .a whole grade"),
        (lambda: load_svmlight(["inf qid:a 1:1"]), "line 1 is malformed .a whole grade"),
        (lambda: load_svmlight(["1 qid:a 1:1 1:2"]), "line 1 is malformed .a feature stands twice"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(FileNotFoundError, match=r"ranker\.json is missing"):
        ULTRRanker.load(tmp_path)
    (tmp_path / "ranker.json").write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        ULTRRanker.load(tmp_path)
    folder = ULTRRanker().fit(X, clicks, qid).save(tmp_path / "ranker")
    with pytest.raises(ValueError, match=r"scorer\.safetensors is damaged, or of another scorer"):
        ULTRRanker.load(folder, nn.Linear(3, 1))
    (folder / "scorer.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"scorer\.safetensors is damaged"):
        ULTRRanker.load(folder)
