import copy
import warnings

import peft
import pytest
import torch
from torch import nn

from fullrank.compress import FWSVDConfig, compress_low_rank, init_lora_from_residual, load, load_lora, save
from fullrank.nn import LowRankLinear

from .models import bert, gpt2, mlp, texts

_QUERY = "bert.encoder.layer.0.attention.self.query"


def _fisher(model, side=1):
    torch.manual_seed(2)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    return {name: torch.rand(layer.weight.shape[side]) for name, layer in layers.items()}


def _lora(rank=3, **options):
    return peft.LoraConfig(r=rank, lora_alpha=options.pop("lora_alpha", rank), **options)


@torch.no_grad()
def _logits(model, batch):
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize(
    ("method", "options"),
    [("svd", {}), ("whiten", {"data": texts()}), ("fwsvd", {}), ("fwsvd-output", {})],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("lora", [{}, {"lora_alpha": 7, "use_rslora": True}], ids=["plain", "scaled"])
def test_base_and_adapter_are_the_model_of_both_ranks(method, options, lora):
    model, batch = bert(), texts()[0]
    if method.startswith("fwsvd"):
        options = {"weights": _fisher(model, 0 if method == "fwsvd-output" else 1)}
    base = compress_low_rank(model, FWSVDConfig(rank=4), method=method, copy=True, **options)
    both = compress_low_rank(model, FWSVDConfig(rank=7), method=method, copy=True, **options)
    before = copy.deepcopy(model.state_dict())
    adapted = init_lora_from_residual(
        model, FWSVDConfig(rank=4), lora=_lora(**lora), method=method, copy=True, **options
    ).eval()
    torch.testing.assert_close(_logits(adapted, batch), _logits(both, batch), rtol=1e-4, atol=1e-5)
    with adapted.disable_adapter():
        torch.testing.assert_close(_logits(adapted, batch), _logits(base, batch), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [row.rank for row in adapted.low_rank_report().layers] == [4] * 12
    trained = {name.split(".lora_")[1][0] for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained == {"A", "B"}
    A, B = (adapted.get_submodule(f"base_model.model.{_QUERY}.lora_{part}.default").weight for part in "AB")
    if method == "svd":  # half of each singular value's root on either side
        torch.testing.assert_close(A.norm(dim=1), B.norm(dim=0), rtol=1e-4, atol=1e-6)


def test_merging_makes_longer_factors_that_are_saved_and_unmerged(tmp_path):
    model, batch = bert(), texts()[0]
    lora = _lora(lora_bias=True)
    adapted = init_lora_from_residual(model, FWSVDConfig(rank=4), _fisher(model), lora=lora).eval()
    assert adapted.get_base_model() is model
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    wanted = _logits(adapted, batch)
    adapted.merge_adapter(safe_merge=True)
    torch.testing.assert_close(_logits(adapted, batch), wanted, rtol=1e-4, atol=1e-5)
    layer = adapted.get_submodule(f"base_model.model.{_QUERY}")
    assert (layer.base_layer.rank, layer.base_layer.second.in_features) == (7, 7)
    adapted.unmerge_adapter()
    assert layer.base_layer.rank == 4
    torch.testing.assert_close(_logits(adapted, batch), wanted, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="no adapter is merged"):
        layer.unmerge()
    small = adapted.merge_and_unload()
    assert type(small.get_submodule(_QUERY)) is LowRankLinear
    torch.testing.assert_close(_logits(load(save(small, tmp_path / "small")), batch), wanted, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_saved_and_loaded_on_its_base_and_stacked(tmp_path):
    model, batch = bert(), texts()[0]
    adapted = init_lora_from_residual(model, FWSVDConfig(rank=4), _fisher(model), lora=_lora()).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    wanted = _logits(adapted, batch)
    adapted.save_pretrained(tmp_path / "adapter")
    save(copy.deepcopy(adapted).unload(), tmp_path / "base")
    again = load_lora(load(tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(_logits(again, batch), wanted)
    assert not any(weight.requires_grad for weight in again.parameters())
    assert "weight" not in vars(again.get_submodule(f"base_model.model.{_QUERY}").base_layer)
    again.add_adapter("other", _lora(2, target_modules=["query"]))
    again.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(_logits(again, batch), wanted)
    merged = again.merge_and_unload()
    assert merged.get_submodule(_QUERY).rank == 4 + 3 + 2
    torch.testing.assert_close(_logits(merged, batch), wanted, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_other_layers_and_ranks_begins_with_what_there_is():
    model, x = mlp(), torch.randn(4, 12)
    config = FWSVDConfig(rank=3, target_modules=["0", "2"])
    lora = _lora(2, target_modules=["0", "2", "4"], rank_pattern={"0": 12})
    adapted = init_lora_from_residual(model, config, method="svd", lora=lora, copy=True)
    assert torch.equal(adapted.base_model.model[4](torch.ones(1, 14)), model[4](torch.ones(1, 14)))
    torch.testing.assert_close(adapted.base_model.model[0](x), model[0](x), rtol=1e-4, atol=1e-5)  # 3 + 9 directions
    assert lora.target_modules == {"0", "2", "4"}
    assert adapted.peft_config["default"].r == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_of_the_base_is_kept(dtype):
    model = gpt2().to(dtype)
    adapted = init_lora_from_residual(model, FWSVDConfig(rank=4), method="svd")
    assert adapted.peft_config["default"].r == 8
    layer = adapted.base_model.model.transformer.h[0].mlp.c_fc
    assert layer.base_layer.first.weight.dtype == dtype
    assert adapted(input_ids=torch.arange(5)[None]).logits.dtype == dtype
    assert adapted.merge_and_unload().transformer.h[0].mlp.c_fc.second.weight.dtype == dtype


def test_it_trains():
    model, batch = bert(), texts()[0]
    adapted = init_lora_from_residual(model, FWSVDConfig(rank=4), method="svd", lora=_lora(task_type="SEQ_CLS"))
    optimizer = torch.optim.Adam([weight for weight in adapted.parameters() if weight.requires_grad], 1e-2)
    losses = []
    for _ in range(20):
        loss = adapted.eval()(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_bad_calls_are_refused(unchecked):
    with pytest.raises(TypeError, match=r"lora is a dict: a peft\.LoraConfig is accepted"):
        init_lora_from_residual(mlp(), method="svd", lora={"r": 4})
    with pytest.raises(ValueError, match="init_lora_weights='pissa' starts the adapter in another way"):
        init_lora_from_residual(mlp(), method="svd", lora=_lora(init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="lora_alpha=0: "):
        init_lora_from_residual(mlp(), method="svd", lora=_lora(lora_alpha=0))
    with pytest.raises(ValueError, match="use_dora"):
        init_lora_from_residual(mlp(), FWSVDConfig(rank=2), method="svd", lora=_lora(use_dora=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="no linear layer was factorised"):
            init_lora_from_residual(mlp(), FWSVDConfig(rank=5, target_modules=["4"]), method="svd")
    with pytest.raises(ValueError, match=r"rank=9.*1 to 5 is accepted"):
        init_lora_from_residual(mlp(), FWSVDConfig(rank=9, target_modules=["4"]), method="svd")
