"""Learning to rank from the command."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def files(folders):
    rng = np.random.default_rng(0)
    for name, labels in (("clicks.svm", 2), ("graded.svm", 5)):
        lines = []
        for query in range(80):
            for _ in range(5):
                x = rng.random(2)
                lines.append(f"{int(x[0] * labels)} qid:{query} 1:{x[0]:.4f} 2:{x[1]:.4f}")
        (folders / name).write_text("\n".join(lines) + "\n")


def test_a_ranker_is_trained_and_scores(fullrank, files, folders):
    outcome = fullrank("rank", "train", "clicks.svm", "--out", "ranker", "--test", "graded.svm", "--lr", 0.5)
    assert outcome.code == 0
    assert float(outcome.out.split()[-1]) > 0.9
    scores = [float(line) for line in fullrank("rank", "score", "ranker", "graded.svm").out.splitlines()]
    assert len(scores) == 400
    measured = fullrank("rank", "train", "clicks.svm", "--out", "other", "--objective", "ips", "--propensities",
                        "1,.8,.6,.5,.4", "--test", "graded.svm", "--json").json  # fmt: skip
    assert measured["nDCG@10"] > 0.8


def test_bad_input(fullrank, files, folders):
    assert "needs propensities" in fullrank("rank", "train", "clicks.svm", "--out", "r", "--objective", "ips").complaint
    assert "no.svm: No such file" in fullrank("rank", "train", "no.svm", "--out", "r").complaint
    fullrank("rank", "train", "clicks.svm", "--out", "ranker")
    assert "ranker: A ranker is there" in fullrank("rank", "train", "clicks.svm", "--out", "ranker").complaint
    assert "holds no ranker" in fullrank("rank", "score", "nowhere", "graded.svm").complaint
