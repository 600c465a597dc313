import math

import pytest
import torch
import transformers

from fullrank.spectra import ifd_score


class Letters:
    """One token a letter, as a slow tokenizer and with a fast one's offsets."""

    def __init__(self, is_fast: bool) -> None:
        self.is_fast = is_fast

    def __call__(self, text, truncation=False, max_length=None, return_offsets_mapping=False):
        ids = [1 + ord(letter) % 60 for letter in text][:max_length]
        offsets = {"offset_mapping": [(at, at + 1) for at in range(len(ids))]} if return_offsets_mapping else {}
        return {"input_ids": ids, **offsets}


def gpt2(**options) -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64, **options)
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("is_fast", [False, True])
def test_the_ratio_of_two_perplexities(is_fast):
    model, tokenizer = gpt2().eval(), Letters(is_fast)
    prompt, response = "name a colour", "blue, of course"
    ids = torch.tensor(tokenizer(prompt + "\n" + response)["input_ids"])
    labels = ids.clone()
    labels[: len(prompt) + 1] = -100
    alone = ids[len(prompt) + 1 :]
    with torch.no_grad():
        after = model(input_ids=ids[None], labels=labels[None]).loss.exp()
        by_itself = model(input_ids=alone[None], labels=alone[None]).loss.exp()
    score = ifd_score(model, tokenizer, prompt, response)
    assert score == pytest.approx(float(after / by_itself), rel=1e-5)
    assert score > 0


def test_the_model_is_left_as_it_was_and_measured_without_dropout():
    model = gpt2(resid_pdrop=0.5).train()
    scores = {ifd_score(model, Letters(True), "ab", "cdefg") for _ in range(3)}
    assert len(scores) == 1
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("response", "limit"), [("", 64), ("a", 64), ("a long response after a prompt that fills the context", 5)]
)
def test_nothing_to_predict(response, limit):
    with pytest.raises(ValueError, match=f"no token to predict within max_length={limit}"):
        ifd_score(gpt2(), Letters(True), "prompt", response, max_length=limit)
    assert math.isfinite(ifd_score(gpt2(), Letters(True), "prompt", "ab"))
