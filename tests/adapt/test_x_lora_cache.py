"""With the caches of both passes, X-LoRA computes what it computes without."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from fullrank.adapt import XLoraCache

from .mixtures import mixture
from .models import build, inputs

pytestmark = pytest.mark.filterwarnings("ignore:.*use_model_defaults")


def prompt(batch=2):
    ids = inputs("llama", batch)["input_ids"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": None}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "options", [{"layerwise_scalings": True}, {"scaling_pass_value": 0.5, "top_k_lora": 2}, {"xlora_depth": 2}]
)
def test_pieces_with_caches_are_the_whole_without(name, options):
    model = mixture(name, **options)
    ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padded on the left
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, position_ids=positions, use_cache=False)
        scalings = model.get_latest_scalings()
        assert whole.past_key_values is None
        cache, start = None, 0
        for length in (5, 1, 1, 5):
            piece = slice(start, start + length)
            start += length
            out = model(
                ids[:, piece],
                attention_mask=mask[:, :start],
                position_ids=positions[:, piece],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            assert isinstance(cache, XLoraCache)
            assert cache.get_seq_length() == cache.scaling_pass.get_seq_length() == start
            torch.testing.assert_close(out.logits, whole.logits[:, piece], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.get_latest_scalings(), scalings[:, piece], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_is_the_same_token_for_token(options):
    model = mixture("llama", layerwise_scalings=True)
    given = prompt() | {"max_new_tokens": 9, "do_sample": False} | options
    cached = model.generate(**given)
    assert torch.equal(cached, model.generate(**given, use_cache=False))
    assert cached.shape[1] == 15
    model.set_global_scaling_weight(0.0)
    assert torch.equal(model.generate(**given), build("llama").generate(**given))


def test_beams_are_reordered_in_both_passes():
    cache = XLoraCache(build("llama").config)
    keys = torch.arange(3.0).view(3, 1, 1, 1)
    for one in (cache, cache.scaling_pass):
        for layer in range(2):
            one.update(keys.clone(), keys.clone(), layer)
    order = torch.tensor([2, 2, 0])
    cache.reorder_cache(order)
    for one in (cache, cache.scaling_pass):
        assert all(torch.equal(layer.keys.flatten(), order.float()) for layer in one.layers)
    cache.batch_select_indices(torch.tensor([0]))
    cache.batch_repeat_interleave(2)
    assert [one.layers[0].keys.shape[0] for one in (cache, cache.scaling_pass)] == [2, 2]
    cache.crop(-1)
    assert [one.get_seq_length() for one in (cache, cache.scaling_pass)] == [0, 0]


def test_a_conversation_goes_on_with_its_cache():
    model = mixture("llama")
    given, cache = prompt(1), XLoraCache(model.config)
    first = model.generate(**given, max_new_tokens=4, do_sample=False, past_key_values=cache)
    assert cache.get_seq_length() == cache.scaling_pass.get_seq_length() == 9
    longer = torch.cat([first, torch.tensor([[7, 9]])], dim=1)
    given |= {"input_ids": longer, "attention_mask": torch.ones_like(longer), "max_new_tokens": 4, "do_sample": False}
    again = model.generate(**given, past_key_values=cache)
    assert torch.equal(again, model.generate(**given, use_cache=False))


def test_the_caches_of_one_pass_are_refused():
    model = mixture("llama")
    ids = inputs("llama")["input_ids"]
    with pytest.raises(TypeError, match=r"past_key_values is a DynamicCache: .*keeps an XLoraCache"):
        model(ids, past_key_values=DynamicCache(config=model.config))
    with pytest.raises(TypeError, match="X-LoRA model's own generate"):
        model.get_base_model().generate(**prompt(), max_new_tokens=2)
    assert model(ids).logits.isfinite().all()


def test_training_keeps_no_cache():
    model = mixture("llama").train()
    assert model(**inputs("llama")).past_key_values is None
    assert isinstance(model.eval()(**inputs("llama")).past_key_values, XLoraCache)


def test_experts_that_change_between_two_generations_are_seen():
    model = mixture("llama")
    given = prompt(1) | {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    before = model.generate(**given).logits[0]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(3)
    changed = model.generate(**given).logits[0]
    assert not torch.equal(before, changed)
    torch.testing.assert_close(changed, model.generate(**given, use_cache=False).logits[0])
