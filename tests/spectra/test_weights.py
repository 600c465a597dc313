import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fullrank.spectra.weights import weights_of


class Conv1D(nn.Module):
    """As transformers', by name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 9))


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 7, 4))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 5, 4))


def kinds(model):
    return {weight.name: (weight.kind, (weight.rows, weight.columns)) for weight in weights_of(model).matrices}


def test_every_kind_of_live_weight():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 5),
            "conv": nn.Conv2d(3, 8, 2),
            "depthwise": nn.Conv1d(6, 6, 3, groups=6),
            "embedding": nn.Embedding(11, 4),
            "conv1d": Conv1D(),
            "embeddings": Embeddings(),
            "experts": Experts(),
            "norm": nn.LayerNorm(4),
        }
    )
    assert kinds(model) == {
        "linear.weight": ("linear", (5, 4)),
        "conv.weight": ("conv", (8, 12)),
        "depthwise.weight": ("conv", (6, 3)),
        "embedding.weight": ("embedding", (11, 4)),
        "conv1d.weight": ("conv1d", (3, 9)),
        "embeddings.position": ("embedding", (7, 4)),
        "experts.up[0]": ("linear", (5, 4)),
        "experts.up[1]": ("linear", (5, 4)),
        "experts.up[2]": ("linear", (5, 4)),
    }
    assert weights_of(model).parameters == sum(p.numel() for p in model.parameters())


def test_every_kind_of_stored_weight(tmp_path):
    shapes = {
        "wte.weight": (11, 4),
        "h.0.attn.c_attn.weight": (4, 12),
        "patch_embeddings.projection.weight": (8, 3, 2, 2),
        "vit.embeddings.position_embeddings": (1, 7, 4),
        "vit.embeddings.cls_token": (1, 1, 4),
        "mlp.experts.up_proj": (2, 5, 4),
        "lm_head.weight": (11, 4),
        "norm.weight": (4,),
    }
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert kinds(tmp_path) == {
        "wte.weight": ("embedding", (11, 4)),
        "h.0.attn.c_attn.weight": ("conv1d", (4, 12)),
        "patch_embeddings.projection.weight": ("conv", (8, 12)),
        "vit.embeddings.position_embeddings": ("embedding", (7, 4)),
        "mlp.experts.up_proj[0]": ("linear", (5, 4)),
        "mlp.experts.up_proj[1]": ("linear", (5, 4)),
        "lm_head.weight": ("linear", (11, 4)),
    }
    assert weights_of(tmp_path).parameters == sum(torch.Size(shape).numel() for shape in shapes.values())


def test_stored_layers_come_in_their_own_order(tmp_path):
    names = [f"layer.{number}.weight" for number in range(12)]
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "model.safetensors")
    assert [weight.name for weight in weights_of(tmp_path).matrices] == names


def test_tied_weights_count_once():
    embedding, head, view = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False), nn.Linear(4, 11, bias=False)
    head.weight = embedding.weight
    view.weight = nn.Parameter(embedding.weight.data)  # another parameter on the same memory
    weights = weights_of(nn.ModuleList([embedding, head, view]))
    assert [(weight.name, weight.kind) for weight in weights.matrices] == [("0.weight", "embedding")]
    assert weights.parameters == 44


def test_weights_that_are_no_floating_point_numbers_say_why(tmp_path):
    stored = {
        "packed.weight": torch.ones(4, 4, dtype=torch.int8),
        "position_ids": torch.arange(6).reshape(1, 6),
        "empty.weight": torch.ones(0, 4),
    }
    save_file(stored, tmp_path / "model.safetensors")
    refusals = {weight.name: weight.refusal for weight in weights_of(tmp_path).matrices}
    assert refusals.keys() == {"packed.weight", "empty.weight"}  # positions are no weights
    assert "stored as I8" in refusals["packed.weight"]
    assert "dequantise" in refusals["packed.weight"]
    assert refusals["empty.weight"] == "it is empty"
    live = nn.Module()
    live.packed = nn.Parameter(stored["packed.weight"], requires_grad=False)
    live.unloaded = nn.Parameter(torch.empty(3, 3, device="meta"))
    refusals = {weight.name: weight.refusal for weight in weights_of(live).matrices}
    assert "int8" in refusals["packed"]
    assert "meta device" in refusals["unloaded"]


@pytest.mark.parametrize("shape", [(10, 6), (6, 10), (8, 3, 2, 2)])
def test_blocks_make_up_the_matrix(tmp_path, shape):
    tensor = torch.randn(shape)
    save_file({"w": tensor}, tmp_path / "model.safetensors")
    live = nn.Linear(1, 1, bias=False) if len(shape) == 2 else nn.Conv2d(1, 1, 1, bias=False)
    live.weight = nn.Parameter(tensor)
    for model in (tmp_path, live):
        (weight,) = weights_of(model).matrices
        assert torch.equal(weight.read(), tensor.flatten(1))
        assert torch.equal(torch.cat(list(weight.blocks(0, 13)), dim=0), tensor.flatten(1))
        assert torch.equal(torch.cat(list(weight.blocks(1, 13)), dim=1), tensor.flatten(1))


@pytest.mark.usefixtures("unchecked")
def test_neither_a_module_nor_a_path():
    with pytest.raises(TypeError, match=r"model is a dict: a torch\.nn\.Module or a path"):
        weights_of({"weight": torch.ones(2, 2)})
