"""The language model that ranks: inputs, pre-training, lists with clicks, judgements, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullrank.order.baidu_format import Annotation, Session, ShownDocument, TokenText
from fullrank.order.text_ranker import MASK, PAD, TextRanker, TextScorer, by_query, mask_words, sinusoids, token_batch
from fullrank.order.ultr_objectives import DLA

RELEVANT = 7  # a document is relevant if it has this token


def scorer():
    torch.manual_seed(0)
    return TextScorer(layers=1, hidden=16, heads=2, vocabulary=40, length=12, dropout=0.0)


def sessions(count=40):
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        shown = []
        for position in range(1, 5):
            relevant = bool(rng.random() < 0.5)
            title = TokenText.of([RELEVANT if relevant else 9, int(rng.integers(10, 20))])
            shown.append(ShownDocument(position, title=title, abstract=TokenText.of([3]), click=int(relevant)))
        made.append(Session(f"q{number}", TokenText.of([1, 2]), TokenText(), tuple(shown)))
    return made


def judged():
    return [
        Annotation(f"q{number}", TokenText.of([number]), TokenText.of([token, 11]), TokenText.of([3]), grade, 0)
        for number in range(6)
        for token, grade in ((9, 0), (RELEVANT, 4), (9, 0))
    ]


def test_inputs():
    tokens = token_batch([([1, 2], [3], [4, 5, 6]), ([9], [], [])], 8)
    assert tokens.input_ids.tolist() == [[0, 11, 12, 1, 13, 1, 14, 15], [0, 19, 1, 1, 1, PAD, PAD, PAD]]
    assert tokens.token_type_ids[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert tokens.attention_mask.sum(1).tolist() == [8, 5]


def test_only_words_are_masked():
    torch.manual_seed(0)
    ids = token_batch([(range(20), range(20), range(20))] * 50).input_ids
    masked, labels = mask_words(ids, 0.1)
    changed = masked != ids
    assert (masked[changed] == MASK).all()
    assert (ids[changed] >= 10).all()
    assert torch.equal(labels[changed], ids[changed])
    assert (labels[~changed] == -100).all()
    assert 0.08 < float(changed.sum() / (ids >= 10).sum()) < 0.12


def test_the_encoder_is_the_one_of_the_benchmark():
    made = scorer()
    config = made.encoder.config
    assert (config.intermediate_size, config.hidden_act) == (16, "gelu")
    places = made.encoder.embeddings.position_embeddings.weight
    assert not places.requires_grad
    torch.testing.assert_close(places, sinusoids(12, 16))
    assert float(sinusoids(12, 16)[3, 1]) == pytest.approx(np.cos(3))
    widths = [module.out_features for module in made.relevance if isinstance(module, torch.nn.Linear)]
    assert widths == [512, 256, 128, 1]


def test_padding_changes_no_score():
    made = scorer().eval()
    short, long = ([1], [2], [3]), ([1, 2, 3], [4, 5], [6])
    together = made(token_batch([short, long], 12))
    torch.testing.assert_close(together[:1], made(token_batch([short], 12)))


@pytest.mark.parametrize(("share", "lowered"), [(0.3, 0), (0.0, 1)])
def test_pretraining_learns_words_and_clicks(share, lowered):
    log = sessions()
    ranker = TextRanker(scorer(), batch_size=10, warm_up=2, list_size=4)
    tokens, clicks, mask = ranker._lists(log)

    def losses():
        torch.manual_seed(1)
        with torch.no_grad():
            return [float(loss) for loss in ranker.scorer.pretraining_losses(tokens, clicks[mask], share or 0.01)]

    before = losses()
    ranker.pretrain(log, steps=100, lr=5e-3, share=share)
    assert len(ranker.losses) == 100
    assert losses()[lowered] < 0.6 * before[lowered]


@pytest.mark.parametrize("objective", ["naive", "dla", "ips"])
def test_it_learns_from_clicks(objective):
    ranker = TextRanker(scorer(), objective, [1, 0.9, 0.8, 0.7], list_size=4, batch_size=10, warm_up=2)
    ranker.fit(sessions(), steps=30, lr=5e-3)
    scores = ranker.predict(judged()).reshape(6, 3)
    assert (scores.argmax(1) == 1).all()
    assert ranker.score(judged()) == pytest.approx(15.0)
    if objective == "dla":
        assert isinstance(ranker.objective_, DLA)
        assert ranker.objective_.logits.detach().abs().max() > 0


def test_it_learns_from_judgements_and_comes_back(tmp_path):
    ranker = TextRanker(scorer(), batch_size=3, warm_up=2).fine_tune(judged(), steps=20, lr=5e-3)
    assert ranker.score(judged()) == pytest.approx(15.0)
    again = TextRanker.load(ranker.save(tmp_path / "ranker"), objective="dla")
    np.testing.assert_array_equal(again.predict(judged()), ranker.predict(judged()))
    other = TextRanker(scorer(), batch_size=3, warm_up=2).fine_tune(judged(), steps=20, lr=5e-3)
    np.testing.assert_array_equal(other.predict(judged()), ranker.predict(judged()))


def test_sessions_are_shuffled_and_documents_stay_together():
    log = sessions(9)
    ranker = TextRanker(scorer(), batch_size=2, buffer_size=4)
    batches = list(ranker._batches(iter(log)))
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 1]
    seen = [each.qid for batch in batches for each in batch]
    assert sorted(seen) == [each.qid for each in log]
    assert set(seen[:4]) == {"q0", "q1", "q2", "q3"}
    with pytest.warns(UserWarning, match="ended after 5 of 6 steps"):
        ranker.fit(iter(log), steps=6)
    gap = log[0]._replace(documents=(log[0].documents[2], log[0].documents[0]))
    tokens, clicks, mask = TextRanker(scorer(), list_size=4)._lists([gap])
    assert mask.tolist() == [[True, False, True, False]]
    assert clicks[0, [0, 2]].tolist() == [log[0].documents[0].click, log[0].documents[2].click]
    assert tokens.input_ids[0, 4] == log[0].documents[0].title.ids[0] + 10


def test_bad_calls(tmp_path, unchecked):
    twice = [one._replace(documents=(*one.documents, one.documents[0])) for one in sessions(2)]
    for call, words in [
        (lambda: TextRanker("tiny"), "scorer='tiny' is not known"),
        (lambda: TextRanker(scorer(), batch_size=0), "batch_size=0 is not accepted"),
        (lambda: TextScorer(1, 30, 4), "hidden=30 is not accepted"),
        (lambda: TextRanker(scorer()).fit([], steps=1), "no session has a document"),
        (lambda: TextRanker(scorer()).fit(sessions(), steps=0), "steps=0 is not accepted"),
        (lambda: TextRanker(scorer()).fit(twice, steps=1), r"a session of qid q\d has two documents at position 1"),
        (lambda: TextRanker(scorer()).fine_tune([], steps=1), "nothing to learn from"),
        (lambda: TextRanker(scorer()).pretrain(sessions(), steps=1, share=2), "share=2 is not accepted"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(FileNotFoundError, match=r"ranker\.json is missing"):
        TextRanker.load(tmp_path)
    folder = TextRanker(scorer()).save(tmp_path / "ranker")
    (folder / "scorer.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match="is damaged"):
        TextRanker.load(folder)


def test_queries_are_told_by_their_text():
    first, second = judged()[0], judged()[3]
    same = [first, second._replace(qid=first.qid), first._replace(qid="other")]
    assert [len(group) for group in by_query(same)] == [2, 1]
