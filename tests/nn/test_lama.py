"""LAMA pooling: the reference numbers, what must hold, and bad input."""

from __future__ import annotations

import pytest
import torch

from fullrank.nn import LowRankMultiHeadAttentionPooling

# --- reference numbers ------------------------------------------------------------------------------------------------

#: What a case may say of its context -> our option. The port's cases name none.
CONTEXTS = {
    "learned": "learned",
    "mean of the scored vectors": "mean",
    "mean": "mean",
    "given": "given",
    None: "mean",
}
#: Fields of a case's configuration that are options of the layer under the same name.
OPTIONS = {"num_heads", "rank", "eps", "temperature", "activation", "normalize"}
SHAPES = {"batch", "time", "input_dim", "project_dim", "seed", "lengths", "projection", "context", "values"}
PARAMETERS = {"W": "projection.weight", "b": "projection.bias", "P": "P", "Q": "Q", "c": "c"}
INPUTS = {"hidden", "mask", "context", "cotangent"}
RESULTS = {"projected", "score", "attention", "sentence_embedding"}


def layer_of(config, tensors, dtype):
    assert set(config) <= OPTIONS | SHAPES
    assert config.get("values", "hidden") == "hidden"
    options = {name: config[name] for name in OPTIONS & set(config)}
    layer = LowRankMultiHeadAttentionPooling(
        config["input_dim"],
        project=config.get("projection", False),
        project_dim=tensors["W"].shape[0] if config.get("projection") else None,
        context=CONTEXTS[config.get("context")],
        dtype=dtype,
        **options,
    )
    given = {ours: tensors[theirs].to(dtype) for theirs, ours in PARAMETERS.items() if theirs in tensors}
    layer.load_state_dict(given)
    return layer


@pytest.mark.golden("lama")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_golden(case, dtype):
    """Attention, scores, embedding, and the gradient of everything that the case gives one for."""
    tensors, spec = case.tensors, case.spec
    if dtype not in spec["tolerance"]:
        dtype = next(iter(spec["tolerance"]))
    tolerance, kind = spec["tolerance"][dtype], getattr(torch, dtype)
    gradients = {name.removeprefix("grad."): value for name, value in tensors.items() if name.startswith("grad.")}
    known = INPUTS | RESULTS | set(PARAMETERS) | {f"grad.{name}" for name in gradients}
    assert set(tensors) <= known

    def close(found, name):
        torch.testing.assert_close(found, tensors[name].to(kind), **tolerance)

    layer = layer_of(spec["config"], tensors, kind)
    hidden = tensors["hidden"].to(kind).requires_grad_()
    mask = tensors.get("mask")
    if lengths := spec["config"].get("lengths"):
        assert mask is not None
        assert mask.sum(1).tolist() == lengths
    given = tensors["context"].to(kind).requires_grad_() if layer.context == "given" else None
    pooled, attention = layer(hidden, mask, given, need_weights=True)
    close(attention, "attention")
    close(pooled, "sentence_embedding")
    if mask is not None:
        torch.testing.assert_close(layer(hidden, key_padding_mask=~mask.bool()), pooled)

    U = hidden if layer.projection is None else torch.tanh(layer.projection(hidden))
    if "projected" in tensors:
        close(U, "projected")
    keep = None if mask is None else mask.bool()
    C = layer._context(U, keep, given)
    if "context" in tensors:
        close(layer.c.expand(len(hidden), -1) if C is None else C, "context")
    if "score" in tensors:
        close(layer._scores(U, C), "score")

    if not gradients:
        return
    (pooled * tensors["cotangent"].to(kind)).sum().backward()
    found = {theirs: layer.get_parameter(ours).grad for theirs, ours in PARAMETERS.items() if theirs in tensors}
    found |= {"H": hidden.grad} | ({"context": given.grad} if given is not None else {})
    assert set(gradients) == set(found)
    for name, gradient in found.items():
        close(gradient, f"grad.{name}")
