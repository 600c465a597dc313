"""Training retrievers of exemplars: what is learnt, kept and resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertModel

from fullrank.search.determinantal import dpp_kernel, log_volumes
from fullrank.search.exemplar_encoder import ExemplarEncoder
from fullrank.search.exemplar_training import CEILTrainer, EPRTrainer

from .tiny_models import bert_config, tokenizer


def head(d=6, out=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(d, out)


def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ExemplarEncoder(BertModel(bert_config()), tokenizer(), max_length=16, batch_size=2)


def ranked_by_hidden(vectors):
    hidden = vectors[:, :2]
    orders = [(hidden @ row).argsort(descending=True).tolist() for row in hidden]
    return [[place for place in order if place != n] for n, order in enumerate(orders)]


VECTORS = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))


def test_training_brings_what_helps_near():
    ranked = ranked_by_hidden(VECTORS)
    module = head()
    training = EPRTrainer(module, top=3, lr=0.03, epochs=15).fit(VECTORS, ranked)
    assert training.losses[-1] < 0.8 * training.losses[0]
    assert len(training.held_out) == 15
    assert training.held_out[training.best_epoch] == min(training.held_out)
    assert not module.training
    again = head()
    assert EPRTrainer(again, top=3, lr=0.03, epochs=15).fit(VECTORS, ranked) == training
    torch.testing.assert_close(again.weight, module.weight)
    short = head()
    kept = EPRTrainer(short, top=3, lr=0.03, epochs=15, holdout=0.0).fit(VECTORS, ranked, queries=VECTORS)
    assert (kept.held_out, kept.best_epoch) == ((), 14)


class Killed(Exception):
    """What stops a training."""


class Dying(nn.Module):
    """A head with dropout that is killed when it has been called a number of times."""

    def __init__(self, calls=None):
        super().__init__()
        self.head, self.dropout, self.calls = head(), nn.Dropout(0.3), calls

    def forward(self, vectors):
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise Killed
        return self.head(self.dropout(vectors))


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_an_interrupted_training_goes_on_where_it_stood(tmp_path, holdout):
    ranked = ranked_by_hidden(VECTORS)
    options = {"top": 3, "lr": 0.03, "epochs": 6, "batch_size": 8, "holdout": holdout}
    whole, killed = Dying(), Dying(calls=30)
    training = EPRTrainer(whole, **options).fit(VECTORS, ranked)
    with pytest.raises(Killed):
        EPRTrainer(killed, **options).fit(VECTORS, ranked, resume=tmp_path)
    resumed = Dying(calls=24)  # three of six epochs, eight calls each
    with torch.random.fork_rng():
        torch.manual_seed(17)  # what was drawn elsewhere does not matter
        assert EPRTrainer(resumed, **options).fit(VECTORS, ranked, resume=tmp_path) == training
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    done = Dying(calls=0)  # nothing is left to train
    assert EPRTrainer(done, **options).fit(VECTORS, ranked, resume=tmp_path) == training
    torch.testing.assert_close(done.state_dict(), whole.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="is of another training: give the same data and options, or another folder"):
        EPRTrainer(head(), **{**options, "lr": 0.01}).fit(VECTORS, ranked, resume=tmp_path)
    with pytest.raises(ValueError, match="is of another training"):
        EPRTrainer(head(), **options).fit(VECTORS, ranked[::-1], resume=tmp_path)
    (tmp_path / "training.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"training.safetensors is damaged \(.*\); remove it to train from the start"):
        EPRTrainer(head(), **options).fit(VECTORS, ranked, resume=tmp_path)


@pytest.mark.parametrize("loss", ["contrastive", "margin"])
def test_training_makes_good_sets_large(loss):
    rng = np.random.default_rng(0)
    near = [row[:12] for row in ranked_by_hidden(VECTORS)]
    sets = []
    for row in near:
        drawn = [rng.permutation(12)[:3].tolist() for _ in range(6)]
        sets.append([[row[item] for item in places] for places in sorted(drawn, key=sum)])
    module = head()
    before = best_is_largest(module, sets)
    training = CEILTrainer(module, loss, lr=0.03, epochs=12, holdout=0.0).fit(VECTORS, sets)
    assert training.losses[-1] < 0.9 * training.losses[0]
    assert best_is_largest(module, sets) > before


@torch.no_grad()
def best_is_largest(module, sets):
    """Share of the samples whose most helpful set has the largest determinant."""
    vectors = module(VECTORS)
    kernel = dpp_kernel(vectors, vectors.expand(len(vectors), -1, -1))
    return float((log_volumes(kernel, torch.tensor(sets)).argmax(1) == 0).float().mean())


def test_an_encoder_is_trained_end_to_end(tmp_path):
    texts = [f"aa {a}{b} bb {b}" for a in "abcd" for b in "xyz"]
    made = encoder()
    ranked = [
        sorted((p for p in range(12) if p != n), key=lambda p, n=n: texts[p][3] != texts[n][3]) for n in range(12)
    ]
    before = made.encode(texts)
    training = EPRTrainer(made, top=2, lr=5e-3, epochs=8, batch_size=4, holdout=0.0).fit(texts, ranked)
    assert training.losses[-1] < training.losses[0]
    vectors = made.encode(texts)
    assert np.abs(vectors - before).max() > 1e-3
    np.testing.assert_allclose(vectors[3], made([texts[3]])[0].detach(), atol=1e-5)
    made.save_pretrained(tmp_path)
    again = ExemplarEncoder(tmp_path, max_length=16, local_files_only=True)
    np.testing.assert_allclose(again.encode(texts), vectors, atol=1e-5)


def test_bad_calls(unchecked, tmp_path):
    ranked = ranked_by_hidden(VECTORS)
    for call, message in [
        (lambda: EPRTrainer(head(), top=0), "top=0"),
        (lambda: EPRTrainer(head(), lr=0), "lr=0"),
        (lambda: EPRTrainer(head(), epochs=0), "epochs=0"),
        (lambda: EPRTrainer(head(), holdout=1), "holdout=1 is not accepted"),
        (lambda: EPRTrainer(head()).fit(VECTORS[:1], [[0, 1, 2]]), "sample 0 has 3 candidates; 2 x top=10"),
        (lambda: EPRTrainer(head()).fit(VECTORS, ranked, VECTORS[:2]), "30 ranked lists for 2 queries"),
        (lambda: CEILTrainer(head(), "hinge"), "loss='hinge' is not known; accepted: contrastive, margin"),
        (lambda: CEILTrainer(head()).fit(VECTORS, []), "candidate sets of 0 samples"),
        (lambda: CEILTrainer(head()).fit(VECTORS, [[[1, 2], [1]]]), "at least 2 sets, equally many"),
        (
            lambda: EPRTrainer(head(), top=1).fit(VECTORS, [[1, 30]]),
            "place 30 is not accepted: the pool has .* 0 to 29",
        ),
        (lambda: CEILTrainer(head()).fit(VECTORS, [[[1, 2], [1, -1]]]), "place -1 is not accepted"),
        (
            lambda: EPRTrainer(head(), lr=1e30, holdout=0.0).fit(VECTORS, ranked),
            "the loss of epoch 0 is .*: give a lower",
        ),
        (lambda: ExemplarEncoder(head(), tokenizer(), max_length=0), "max_length=0"),
        (lambda: ExemplarEncoder(head(), tokenizer(), batch_size=0), "batch_size=0"),
        (lambda: ExemplarEncoder(head()), "tokenizer=None with a model object"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(OSError, match="cannot be loaded"):
        ExemplarEncoder(tmp_path, local_files_only=True)
