"""Click logs from the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fullrank.order import DBN, ClickSimulator


@pytest.fixture
def log(folders):
    """Lists of three rankers with clicks by position; some are shorter."""
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, (4, 5))
    with (folders / "log.jsonl").open("w") as file:
        for session in range(3_000):
            query = session % 4
            order = np.roll(np.arange(5), rng.integers(3))[: rng.integers(2, 6)]
            clicks = ClickSimulator().simulate(grades[query, order][None], rng).clicks[0]
            names = [f"d{number}" for number in order]
            file.write(json.dumps({"query_id": f"q{query}", "doc_ids": names, "clicks": clicks.tolist()}) + "\n")
    return "log.jsonl"


def test_a_model_is_fitted_and_measured(fullrank, log, folders):
    outcome = fullrank("rank", "clicks", log, "--model", "dbn", "-o", "model.json", "-o", "pairs.csv")
    assert outcome.code == 0
    assert "perplexity" in outcome.out
    assert len(outcome.out.splitlines()) == 8  # head, rule, five ranks, total
    assert DBN.load(folders / "model.json").attraction_.shape == (20,)
    measured = {
        model: fullrank("rank", "clicks", log, "--model", model, "--test", log, "--json").json
        for model in ("pbm", "ubm", "cascade", "dcm", "sdbn", "ctr", "rank-ctr", "document-ctr")
    }
    assert measured["cascade"]["log_likelihood"] is None  # minus infinity: it holds a second click impossible
    assert measured["cascade"]["impossible_sessions"] > 0
    assert "sessions are impossible under the model" in fullrank("rank", "clicks", log, "--model", "cascade").out
    assert "examined" not in measured["ctr"]["ranks"][0]
    fits = {model: found["log_likelihood"] for model, found in measured.items() if model != "cascade"}
    assert sorted(fits, key=fits.__getitem__)[-2:] == ["pbm", "ubm"]
    by_rank = measured["pbm"]["ranks"]
    assert [row["rank"] for row in by_rank] == [1, 2, 3, 4, 5]
    assert all(row["clicked"] < row["examined"] for row in by_rank)
    assert measured["pbm"]["sessions"] == 3_000
    assert measured["pbm"]["impossible_sessions"] == 0


def test_propensities_train_a_ranker(fullrank, log, folders):
    line = fullrank("rank", "propensities", log).out.strip()
    true = ClickSimulator().propensities(5) / ClickSimulator().propensities(1)
    np.testing.assert_allclose([float(part) for part in line.split(",")], true, atol=0.2)
    for method in ("em", "dla"):
        found = fullrank("rank", "propensities", log, "--method", method, "--json").json["propensities"]
        np.testing.assert_allclose(found, true, atol=0.2)
    (folders / "clicks.svm").write_text("\n".join(f"{row % 2} qid:{row // 5} 1:{row % 5}" for row in range(50)) + "\n")
    trained = fullrank("rank", "train", "clicks.svm", "--objective", "ips", "--propensities", line, "--out", "ranker")
    assert trained.code == 0


def test_bad_input(fullrank, log, folders):
    assert "no.jsonl: No such file" in fullrank("rank", "clicks", "no.jsonl").complaint
    (folders / "model.json").write_text("mine")
    assert "model.json: File exists" in fullrank("rank", "clicks", log, "-o", "model.json").complaint
    assert (folders / "model.json").read_text() == "mine"
    assert fullrank("rank", "clicks", log, "-o", "model.json", "--overwrite").code == 0
    assert "names no format" in fullrank("rank", "clicks", log, "-o", "model.xml").complaint
    (folders / "one.jsonl").write_text('{"query_id": "q", "doc_ids": ["a", "b"], "clicks": [1, 0]}\n')
    assert "no documents connect rank 2 with rank 1" in fullrank("rank", "propensities", "one.jsonl").complaint
    (folders / "bad.jsonl").write_text('{"query_id": "q"}\n')
    assert "bad.jsonl, line 1: query_id, doc_ids and clicks" in fullrank("rank", "clicks", "bad.jsonl").complaint
