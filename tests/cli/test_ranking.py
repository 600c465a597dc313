"""Learning to rank from the command."""

from __future__ import annotations

import numpy as np
import pytest

from fullrank.order import (
    Annotation,
    Session,
    ShownDocument,
    TokenText,
    write_baidu_annotations,
    write_baidu_sessions,
)


def baidu_log():
    rng = np.random.default_rng(0)
    sessions, judged = [], []
    for number in range(60):
        query, shown = TokenText.of([number, 100 + number]), []
        for position in range(1, 6):
            good = bool(rng.random() < 0.4)
            title = TokenText.of([number if good else 300, 5])
            shown.append(ShownDocument(position, title=title, click=int(good and rng.random() < 1 / position)))
            judged.append(Annotation(f"q{number}", query, title, TokenText(), 4 * good, 0))
        sessions.append(Session(f"q{number}", query, TokenText(), tuple(shown)))
    return sessions, judged


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
    train = ("rank", "train", "clicks.svm", "--out", "r")
    assert "lr=-1.0 is not accepted" in fullrank(*train, "--lr", "-1").complaint
    assert "--propensities 1,b holds no numbers" in fullrank(*train, "--propensities", "1,b").complaint
    assert "no.svm: No such file" in fullrank("rank", "train", "no.svm", "--out", "r").complaint
    fullrank("rank", "train", "clicks.svm", "--out", "ranker")
    assert "ranker: A ranker is there" in fullrank("rank", "train", "clicks.svm", "--out", "ranker").complaint
    assert "holds no ranker" in fullrank("rank", "score", "nowhere", "graded.svm").complaint


@pytest.mark.parametrize("objective", ["dla", "lambdarank"])
def test_trees_are_trained_and_score(fullrank, files, folders, objective):
    measured = fullrank("rank", "train", "clicks.svm", "--out", "trees", "--ranker", "lightgbm", "--trees", 10,
                        "--objective", objective, "--test", "graded.svm", "--json").json  # fmt: skip
    assert measured["nDCG@10"] > 0.9
    assert len(fullrank("rank", "score", "trees", "graded.svm").out.splitlines()) == 400


def test_sessions_of_baidu_are_read_and_malformed_lines_told(fullrank, folders):
    sessions, judged = baidu_log()
    write_baidu_sessions(folders / "part-00000.gz", sessions)
    write_baidu_annotations(folders / "judged.txt", judged)
    with (folders / "judged.txt").open("ab") as file:
        file.write(b"half a line\n")
    outcome = fullrank("rank", "train", "part-00000.gz", "--format", "baidu", "--ranker", "mlp", "--out", "ranker",
                       "--test", "judged.txt")  # fmt: skip
    assert outcome.code == 0
    assert float(outcome.out.split()[-1]) > 0.8
    assert "1 malformed lines were left out: judged.txt, line 301 is malformed" in outcome.err
    assert len(fullrank("rank", "score", "ranker", "judged.txt", "--format", "baidu").out.splitlines()) == 300


def test_a_language_model_learns_from_sessions_and_judgements_and_scores(fullrank, folders):
    sessions, judged = baidu_log()
    write_baidu_sessions(folders / "part-00000.gz", sessions[:4])
    write_baidu_annotations(folders / "judged.txt", judged[:20])
    with (folders / "judged.txt").open("ab") as file:
        file.write(b"half a line\n")
    asked = ("rank", "text", "part-00000.gz", "--out", "ranker", "--batch-size", 2)
    outcome = fullrank(*asked, "--pretrain", 1, "--steps", 1, "--objective", "dla", "--judged", "judged.txt",
                       "--judged-steps", 1, "--test", "judged.txt", "--json")  # fmt: skip
    assert outcome.json["DCG@10"] > 0
    assert "line 21 is malformed" in outcome.err
    scores = [
        float(line) for line in fullrank("rank", "score", "ranker", "judged.txt", "--format", "baidu").out.split()
    ]
    assert len(scores) == 20
    assert len(set(scores)) > 1
    assert "reads words" in fullrank("rank", "score", "ranker", "judged.txt").complaint
    assert "A ranker is there" in fullrank(*asked).complaint
    assert "teaches nothing" in fullrank(*asked[:4], "other", "--steps", 0).complaint


def test_lambdarank_belongs_to_lightgbm(fullrank, files, folders):
    complaint = fullrank("rank", "train", "clicks.svm", "--out", "r", "--objective", "lambdarank").complaint
    assert "add --ranker lightgbm" in complaint
