import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fullrank.compress import Layer, collect_statistics, fisher_sums

from .models import bert, convolutional, gpt2, mlp, texts


def _layers(model, kind=(nn.Linear, nn.Conv2d)):
    return [Layer(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


def _losses(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _explicit(model, x, y):
    """Mean squared per-sample gradients by torch.func."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters, x, y):
        return functional.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    return {name: value.square().mean(0) for name, value in gradients.items()}


@pytest.mark.parametrize("build", [mlp, convolutional])
def test_fisher_sums_are_those_of_every_samples_gradient(build):
    torch.manual_seed(1)
    model = build()
    x = torch.randn(6, 12) if build is mlp else torch.randn(6, 3, 9, 8)
    y = torch.randint(4, (6,))
    found = collect_statistics(
        model, [(x[:4], y[:4]), (x[4:], y[4:])], _layers(model), ("fisher_in", "fisher_out"), sample_losses=_losses
    )
    expected = _explicit(model, x, y)
    for name, sums in found.items():
        squares = expected[f"{name}.weight"].flatten(1).double()
        torch.testing.assert_close(sums.fisher_in, squares.sum(0), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(sums.fisher_out, squares.sum(1), rtol=1e-4, atol=1e-9)
        assert sums.samples == 6


@settings(max_examples=30, deadline=None)
@given(
    positions=st.integers(1, 9),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    kind=st.sampled_from(["per_sample", "batch", "token"]),
)
def test_both_ways_to_sum_give_the_same(positions, inputs, outputs, kind):
    X, D = torch.randn(3, positions, inputs).double(), torch.randn(3, positions, outputs).double()
    gradients = torch.einsum("bto,bti->btoi", D, X).flatten(0, 1) if kind == "token" else D.mT @ X
    if kind == "batch":
        gradients = gradients.sum(0, keepdim=True)
    rows, columns = fisher_sums(X, D, kind)
    torch.testing.assert_close(rows, gradients.square().sum((0, 2)))
    torch.testing.assert_close(columns, gradients.square().sum((0, 1)))


def test_a_layer_that_is_called_twice_has_the_sum_of_its_gradients():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(self.linear(x).tanh())

    torch.manual_seed(0)
    model, x, y = Twice(), torch.randn(5, 4), torch.randint(4, (5,))
    found = collect_statistics(model, [(x, y)], _layers(model), ("fisher_in",), sample_losses=_losses)
    torch.testing.assert_close(
        found["linear"].fisher_in, _explicit(model, x, y)["linear.weight"].sum(0).double(), rtol=1e-4, atol=1e-9
    )


def test_activations_leave_padding_out():
    model, (batch, *_) = bert(), texts()
    name = "bert.encoder.layer.0.attention.self.query"
    layer = Layer(name, model.get_submodule(name))
    found = collect_statistics(model, [batch], [layer], ("mean_abs", "mean_square", "moments"))[name]
    with torch.no_grad():
        states = model.bert.embeddings(batch["input_ids"])[batch["attention_mask"].bool()].double()
    torch.testing.assert_close(found.mean_abs, states.abs().mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.moments, states.mT @ states / len(states), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean_square, found.moments.diagonal(), rtol=1e-4, atol=1e-6)
    assert found.positions == int(batch["attention_mask"].sum())


def test_causal_language_models_and_conv1d():
    model = gpt2()
    ids = torch.randint(40, (2, 8))
    layers = [Layer(name, module) for name, module in model.named_modules() if name.endswith("c_attn")]
    found = collect_statistics(model, [{"input_ids": ids, "labels": ids}], layers, ("fisher_in", "fisher_out"))
    expected = 0
    for row in ids:
        model.zero_grad()
        model(input_ids=row[None], labels=row[None]).loss.backward()
        expected = expected + layers[0].module.weight.grad.square().double() / 2
    torch.testing.assert_close(found[layers[0].name].fisher_in, expected.sum(1), rtol=1e-3, atol=1e-10)
    torch.testing.assert_close(found[layers[0].name].fisher_out, expected.sum(0), rtol=1e-3, atol=1e-10)


def test_the_model_is_left_as_it_was():
    model = bert().train()
    model.bert.embeddings.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    collect_statistics(model, texts(), _layers(model.bert.encoder), ("fisher_in",), num_samples=3)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_dropout_does_not_disturb_the_measurement():
    models = [bert().train(), bert().train()]
    one, other = (collect_statistics(m, texts(), _layers(m.bert.encoder), ("fisher_in",)) for m in models)
    for name, found in one.items():
        torch.testing.assert_close(found.fisher_in, other[name].fisher_in)


def test_what_cannot_be_gathered_is_refused(unchecked):
    model, batch = mlp(), (torch.randn(3, 12), torch.randint(4, (3,)))
    layers = _layers(model)
    with pytest.raises(ValueError, match="wanted=\\['hessian'\\]"):
        collect_statistics(model, [batch], layers, ("hessian",))
    with pytest.raises(ValueError, match="kind='sum' is not known"):
        collect_statistics(model, [batch], layers, ("fisher_in",), kind="sum")
    with pytest.raises(ValueError, match="data holds no batch"):
        collect_statistics(model, [], layers, ("mean_abs",))
    with pytest.raises(ValueError, match="shape \\(\\) for 3 samples: one loss a sample"):
        collect_statistics(
            model, [batch], layers, ("fisher_in",), sample_losses=lambda m, b: functional.cross_entropy(m(b[0]), b[1])
        )
    with pytest.raises(RuntimeError, match="the loss of sample 0 of a batch is not finite"):
        collect_statistics(model, [(batch[0] * float("nan"), batch[1])], layers, ("fisher_in",), sample_losses=_losses)
    unused = Layer("unused", nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="no gradient reached unused \\(1 of 4 layers\\)"):
        collect_statistics(model, [batch], [*layers, unused], ("fisher_in",), sample_losses=_losses)
    found = collect_statistics(
        model, [batch], [*layers, unused], ("fisher_in",), sample_losses=_losses, skip_unreached=True
    )
    assert len(found) == 3
    with pytest.raises(ValueError, match="a batch is a str without a tensor"):
        collect_statistics(model, ["text"], layers, ("mean_abs",))


def test_inference_mode_does_not_stop_the_gradients(unchecked):
    model, data = bert(), texts()
    layers = _layers(model, nn.Linear)
    expected = collect_statistics(model, data, layers, ["fisher_in"])
    with torch.inference_mode():
        found = collect_statistics(model, data, layers, ["fisher_in"])
    for name, statistics in expected.items():
        torch.testing.assert_close(found[name].fisher_in, statistics.fisher_in)
    with pytest.raises(ValueError, match="sample_losses gave a list for 3 samples"):
        collect_statistics(model, data, layers, ["fisher_in"], sample_losses=lambda model, batch: [0.0] * 3)
