import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fullrank.compress import FixedRank, auto_fact, compress, decompose, select_layers
from fullrank.compress.layers import CONVOLUTIONS, LINEAR

from .models import bert, convolutional, gpt2, mlp


def test_all_linear_layers_but_the_head_are_selected():
    selection = select_layers(bert())
    assert len(selection.layers) == 2 * 6 + 1
    assert not any(layer.name == "classifier" for layer in selection.layers)
    assert all("lm_head" not in layer.name for layer in select_layers(gpt2()).layers)


def test_names_and_patterns_select_as_in_peft():
    names = [layer.name for layer in select_layers(bert(), ["query", "value"]).layers]
    assert len(names) == 4
    assert [layer.name for layer in select_layers(mlp(), "[02]").layers] == ["0", "2"]
    assert [layer.name for layer in select_layers(mlp(), exclude_modules=["2"]).layers] == ["0", "4"]


def test_a_layer_is_a_matrix_out_by_in():
    (layer,) = select_layers(gpt2(), "transformer.h.0.mlp.c_fc").layers
    assert layer.shape == tuple(layer.matrix.shape) == (96, 24)
    x = torch.randn(3, 24)
    torch.testing.assert_close(layer.as_linear()(x), layer.module(x))
    conv, *_ = select_layers(convolutional(), "all", kinds=LINEAR + CONVOLUTIONS).layers
    assert conv.shape == tuple(conv.matrix.shape) == (8, 27)


def test_what_cannot_be_changed_is_left_with_its_reason():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "tied": nn.Linear(4, 4),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "normed": parametrizations.weight_norm(nn.Linear(4, 4)),
            "attention": nn.MultiheadAttention(4, 2),
            "subclass": type("Special", (nn.Linear,), {})(4, 4),
        }
    )
    model["again"] = nn.Linear(4, 4)
    model["again"].weight = model["tied"].weight
    selection = select_layers(model, "all", kinds=LINEAR + CONVOLUTIONS)
    assert [layer.name for layer in selection.layers] == ["linear"]
    assert selection.left["tied"] == selection.left["again"] == "its weight is shared with another layer"
    assert selection.left["grouped"] == "it has groups=2"
    assert "its type is Special" in selection.left["subclass"]
    assert "attention.out_proj" in selection.left
    assert "normed" in selection.left


class _Packed(torch.Tensor):
    """As torchao's: a tensor that says it is of a floating-point dtype."""


@pytest.mark.parametrize("method", ["svd", "snmf", "rtn"])
def test_layers_that_others_quantised_are_left_with_their_reason(method):
    model = mlp()
    model[0] = type("Linear4bit", (nn.Linear,), {})(12, 16)
    model[0].weight = nn.Parameter(torch.zeros(96, 1, dtype=torch.uint8), requires_grad=False)
    model[2].weight = nn.Parameter(model[2].weight.detach().as_subclass(_Packed), requires_grad=False)
    report = compress(model, method, copy_model=False, **{"group_size": -1} if method == "rtn" else {}).report
    assert "its type is Linear4bit" in report.left["0"]
    assert report.left["2"] == "it is quantised, its weight a _Packed: dequantise it first"
    assert [layer.name for layer in report.layers] == ["4"]


def test_nothing_to_compress_says_why():
    with pytest.raises(ValueError, match=r"no layer to compress for .*'nowhere'.* \(the model has 3 Linear"):
        select_layers(mlp(), ["nowhere"])
    with pytest.raises(ValueError, match="0 is on the meta device"):
        select_layers(mlp().to("meta"))


@pytest.mark.parametrize(
    "smaller",
    [
        lambda model: compress(model, rank_rule=FixedRank(2)).model,
        lambda model: auto_fact(model, 2, deepcopy=True),
        lambda model: decompose(copy.deepcopy(model)),
    ],
)
def test_a_layer_with_two_names_stays_one_layer(smaller):
    layer = nn.Linear(12, 12)
    small = smaller(nn.Sequential(layer, nn.ReLU(), layer))
    assert not isinstance(small[0], nn.Linear)
    assert small[0] is small[2]


@pytest.mark.parametrize("stacked", [False, True])
def test_a_transformer_encoder_of_torch_runs_with_compressed_layers(stacked):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    model = (nn.TransformerEncoder(layer, 2) if stacked else layer).eval()
    x, padding = torch.randn(2, 4, 12), torch.tensor([[False] * 4, [False, False, True, True]])
    small = compress(model, rank_rule=FixedRank(4)).model
    expected = small(x, src_key_padding_mask=padding)
    with torch.no_grad():  # where the dense one takes its fused path
        torch.testing.assert_close(small(x, src_key_padding_mask=padding), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_layers_whose_weight_a_hook_makes_are_left(normed):
    model = nn.Sequential(normed(nn.Linear(8, 8)), nn.Linear(8, 8))
    assert "parametrised" in select_layers(model).left["0"]
    with pytest.raises(TypeError, match="0 is parametrised"):
        decompose(model)
