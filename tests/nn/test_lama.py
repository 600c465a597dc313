"""LAMA pooling: the reference numbers, what must hold, and bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fullrank.nn import LAMA, LAMAPooling, LowRankMultiHeadAttentionPooling, head_redundancy, orthogonality_penalty
from fullrank.nn.lama_poolings import HANPooling, SelfAttentivePooling

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
    parameters = {ours: tensors[theirs].to(dtype) for theirs, ours in PARAMETERS.items() if theirs in tensors}
    layer.load_state_dict(parameters)
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
    external = tensors["context"].to(kind).requires_grad_() if layer.context == "given" else None
    pooled, attention = layer(hidden, mask, external, need_weights=True)
    close(attention, "attention")
    close(pooled, "sentence_embedding")
    if mask is not None:
        torch.testing.assert_close(layer(hidden, key_padding_mask=~mask.bool()), pooled)

    U = hidden if layer.projection is None else torch.tanh(layer.projection(hidden))
    if "projected" in tensors:
        close(U, "projected")
    keep = None if mask is None else mask.bool()
    C = layer._context(U, keep, external)
    if "context" in tensors:
        close(layer.c.expand(len(hidden), -1) if C is None else C, "context")
    if "score" in tensors:
        close(layer._scores(U, C), "score")

    if not gradients:
        return
    (pooled * tensors["cotangent"].to(kind)).sum().backward()
    found = {theirs: layer.get_parameter(ours).grad for theirs, ours in PARAMETERS.items() if theirs in tensors}
    found |= {"H": hidden.grad} | ({"context": external.grad} if external is not None else {})
    assert set(gradients) == set(found)
    for name, gradient in found.items():
        close(gradient, f"grad.{name}")


# --- what must hold ---------------------------------------------------------------------------------------------------


def random_layer(dim=6, heads=3, seed=0, **options):
    torch.manual_seed(seed)
    return LAMA(dim, heads, **{"dtype": torch.float64} | options)


def states(batch=2, tokens=5, dim=6, seed=1, dtype=torch.float64):
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def context_for(layer, batch, seed=3):
    generator = torch.Generator().manual_seed(seed)
    if layer.context != "given":
        return None
    return torch.randn(batch, layer.scored_dim, generator=generator, dtype=layer.P.dtype)


VARIANTS = [
    {},
    {"context": "mean"},
    {"context": "given"},
    {"project": False},
    {"project": False, "context": "mean"},
    {"rank": 3},
    {"rank": 2, "context": "mean", "project_dim": 4},
    {"activation": None, "temperature": 3.0},
    {"normalize": None},
    {"init": "port", "context": "mean", "project": False},
]


@settings(max_examples=30, deadline=None)
@given(
    options=st.sampled_from(VARIANTS), heads=st.integers(2, 6), padding=st.integers(0, 3),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)  # fmt: skip
def test_padding_and_neighbours_do_not_matter(options, heads, lengths, padding):
    layer = random_layer(heads=heads, **options)
    longest = max(lengths) + padding
    H = states(len(lengths), longest)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    given = context_for(layer, len(lengths))
    pooled, A = layer(H, mask, given, need_weights=True)
    assert pooled.shape == (len(lengths), heads, 6)
    torch.testing.assert_close(A.sum(-1), torch.ones(len(lengths), heads, dtype=A.dtype))
    assert (A.masked_select(~mask[:, None]) == 0).all()
    for row, length in enumerate(lengths):
        alone = layer(H[row : row + 1, :length], context=None if given is None else given[row])
        torch.testing.assert_close(alone[0], pooled[row])


@pytest.mark.parametrize("options", VARIANTS)
def test_permuting_words_permutes_the_attention(options):
    layer = random_layer(**options)
    H, given = states(), context_for(layer, 2)
    order = torch.tensor([3, 0, 4, 1, 2])
    pooled, A = layer(H, context=given, need_weights=True)
    permuted, B = layer(H[:, order], context=given, need_weights=True)
    torch.testing.assert_close(B, A[..., order])
    torch.testing.assert_close(permuted, pooled)


@pytest.mark.parametrize("options", VARIANTS)
def test_gradients(options):
    layer = random_layer(4, 2, **{"project_dim": 3} | options if options.get("project", True) else options)
    H, given = states(2, 3, 4).requires_grad_(), context_for(layer, 2)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    names = [name for name, _ in layer.named_parameters()]

    def call(H, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (H, mask, given))

    assert torch.autograd.gradcheck(call, (H, *layer.parameters()))


def test_scores_are_unit_vectors_over_the_heads():
    layer = random_layer(context="mean")
    H = states()
    F = layer._scores(torch.tanh(layer.projection(H)), layer._context(torch.tanh(layer.projection(H)), None, None))
    torch.testing.assert_close(F.square().sum(-1), torch.ones(2, 5, dtype=F.dtype))
    with pytest.warns(UserWarning, match="num_heads=1 with normalize='l2'"):
        single = random_layer(heads=1)
    F = single._scores(torch.tanh(single.projection(H)), None)
    torch.testing.assert_close(F.abs(), torch.ones_like(F))
    single(H).square().sum().backward()
    assert all(float(p.grad.abs().max()) < 1e-12 for p in single.parameters())


@pytest.mark.parametrize("rank", [1, 3])
def test_a_learned_context_folds_into_q(rank):
    learned, given = random_layer(rank=rank), random_layer(rank=rank, context="given")
    given.load_state_dict({name: p for name, p in learned.state_dict().items() if name != "c"})
    H = states()
    torch.testing.assert_close(learned(H), given(H, context=learned.c), rtol=0, atol=1e-12)
    folded = learned.folded_factor()
    assert folded.shape == (6, 3)
    F = torch.tanh(torch.tanh(learned.projection(H)) @ folded)
    torch.testing.assert_close(
        nn.functional.normalize(F, dim=-1), learned._scores(torch.tanh(learned.projection(H)), None)
    )
    with pytest.raises(ValueError, match="context='given' changes with the text: only a learned one folds into Q"):
        given.folded_factor()


def test_one_word_is_every_heads_summary():
    H = states(3, 1)
    torch.testing.assert_close(random_layer()(H), H.expand(3, 3, 6))


def test_no_temperature_is_mean_pooling():
    layer, H = random_layer(temperature=0.0), states()
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected = torch.stack([H[0].mean(0), H[1, :2].mean(0)])
    torch.testing.assert_close(layer(H, mask), expected[:, None].expand(2, 3, 6))


@torch.no_grad()
def test_temperature_cures_long_texts():
    """No word gets more than e^2 / (e^2 + T - 1) at temperature 1, and more at a higher one."""
    H = torch.tensor([[[1.0, 0.0]] + [[-1.0, 0.0]] * 49], dtype=torch.float64)
    layer = random_layer(2, 2, project=False)
    layer.load_state_dict({"P": 100 * torch.eye(2), "Q": torch.eye(2), "c": torch.ones(2)})
    assert float(layer(H, need_weights=True)[1].max()) == pytest.approx(math.e**2 / (math.e**2 + 49))
    layer.temperature = 5.0
    assert float(layer(H, need_weights=True)[1].max()) > 0.99


def test_it_contains_the_attention_of_han_and_of_lin():
    H = states(dtype=torch.float32)
    han, lin = HANPooling(6), SelfAttentivePooling(6, 3)
    same = LAMA(6, 1, rank=6, activation=None, normalize=None)
    same.load_state_dict({
        "projection.weight": han.projection.weight, "projection.bias": han.projection.bias,
        "P": torch.eye(6), "Q": torch.eye(6), "c": han.c,
    })  # fmt: skip
    torch.testing.assert_close(same(H), han(H))
    same = LAMA(6, 3, activation=None, normalize=None, context="given")
    same.load_state_dict({
        "projection.weight": lin.W_s1.weight, "projection.bias": torch.zeros(6),
        "P": torch.ones(6, 3) / 6, "Q": lin.W_s2.weight.T,
    })  # fmt: skip
    torch.testing.assert_close(same(H, context=torch.ones(6)), lin(H))


def test_the_layer_has_short_names():
    assert LAMA is LAMAPooling is LowRankMultiHeadAttentionPooling


def test_parameter_counts():
    count = lambda layer: sum(p.numel() for p in layer.parameters())  # noqa: E731
    assert count(LAMA(128, 8)) == 18_688
    assert count(LAMA(128, 8, project=False, context="mean")) == 2_048
    assert count(LAMA(128, 8, rank=2)) == 18_688 + 2_048
    assert count(HANPooling(128)) == 16_640
    assert count(SelfAttentivePooling(128, 8)) == 17_408


@pytest.mark.parametrize(("init", "bound"), [("port", 1 / math.sqrt(4)), ("xavier", math.sqrt(6 / (200 + 4)))])
def test_starts(init, bound):
    layer = random_layer(200, 4, init=init)
    for factor in (layer.P, layer.Q):
        assert 0.98 * bound < float(factor.detach().abs().max()) <= bound
    assert float(layer.c.detach().std()) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    layer = random_layer(dtype=torch.float64)
    H = states(2, 4)
    expected, expected_A = layer(H, need_weights=True)
    pooled, A = copy.deepcopy(layer).to(dtype)(H.to(dtype), need_weights=True)
    assert pooled.dtype == A.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 5e-2)
    torch.testing.assert_close(pooled.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(A.double(), expected_A, rtol=0, atol=tolerance)


@pytest.mark.parametrize("context", ["learned", "mean"])
def test_states_of_zeros_are_no_nan(context):
    """The norm over the heads is zero: eps steps in, in half precision too."""
    for dtype in (torch.float32, torch.float16):
        layer = random_layer(context=context, project=False, dtype=dtype)
        H = torch.zeros(2, 3, 6, dtype=dtype, requires_grad=True)
        pooled, A = layer(H, need_weights=True)
        torch.testing.assert_close(A, torch.full_like(A, 1 / 3))
        pooled.float().sum().backward()
        assert bool(H.grad.isfinite().all())
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_autocast():
    layer, H = random_layer(dtype=torch.float32), states(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = layer(H)
    torch.testing.assert_close(pooled.float(), layer(H), rtol=0, atol=5e-2)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_masks_of_both_conventions(kind):
    layer, H = random_layer(), states()
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(layer(H, keep.to(kind)), layer(H, key_padding_mask=(1 - keep).to(kind)))


def test_packed_sequences():
    layer, H = random_layer(context="mean"), states(3, 5)
    lengths = torch.tensor([2, 5, 1])
    packed = pack_padded_sequence(H, lengths, batch_first=True, enforce_sorted=False)
    torch.testing.assert_close(layer(packed), layer(H, torch.arange(5) < lengths[:, None]))
    with pytest.raises(ValueError, match="hidden is packed and knows its lengths"):
        layer(packed, torch.ones(3, 5))


def test_tokens_first():
    layer, H = random_layer(batch_first=False), states()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    batched = random_layer()
    torch.testing.assert_close(layer(H.transpose(0, 1), mask), batched(H, mask))


def test_an_output_map():
    layer, H = random_layer(output_dim=7), states()
    mapped, A = layer(H, need_weights=True)
    assert mapped.shape == (2, 7)
    torch.testing.assert_close(mapped, layer.output((A @ H).flatten(1)))


def test_texts_without_words():
    H, mask = states(3).requires_grad_(), torch.tensor([[1] * 5, [0] * 5, [1, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"rows 1 have no words to attend to: .* on_empty='zeros'"):
        random_layer()(H, mask)
    for context in ("learned", "mean"):
        layer = random_layer(on_empty="zeros", context=context)
        pooled, A = layer(H, mask, need_weights=True)
        assert not pooled[1].any()
        assert not A[1].any()
        torch.testing.assert_close(pooled[[0, 2]], layer(H[[0, 2]], mask[[0, 2]]))
        pooled.square().sum().backward()
        assert bool(H.grad.isfinite().all())
    with pytest.raises(ValueError, match="rows 0, 1 have no words"):
        random_layer()(H[:2, :0])
    assert random_layer(on_empty="zeros")(H[:2, :0]).shape == (2, 3, 6)


@pytest.mark.parametrize("options", [{}, {"context": "mean", "rank": 2}])
def test_compiled(options, unchecked):
    layer = random_layer(on_empty="zeros", **options)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    H, mask = states(), torch.tensor([[1, 1, 0, 0, 0], [1] * 5])
    torch.testing.assert_close(compiled(H, mask), layer(H, mask))
    grads = [torch.autograd.grad(f(H, mask).square().sum(), list(layer.parameters())) for f in (compiled, layer)]
    torch.testing.assert_close(*grads)


def test_saving_and_copying(tmp_path):
    layer, H = random_layer(output_dim=4), states()
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = random_layer(output_dim=4, seed=5)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    torch.testing.assert_close(other(H), layer(H))
    torch.testing.assert_close(copy.deepcopy(layer)(H), layer(H))
    assert "context='learned'" in repr(layer)
    with torch.device("meta"):
        assert LAMA(4).P.is_meta


def test_nothing_grows_with_batch_heads_tokens_and_width_together():
    """The largest tensor that autograd keeps is as large as the states: no (B, m, T, D)."""
    layer, H = random_layer(16, 8, context="mean"), states(4, 32, 16).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(H)
    assert max(kept) <= H.numel()


def test_head_redundancy():
    A = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    assert float(head_redundancy(A)) == 0
    assert float(head_redundancy(A.numpy())) == 0  # as an explanation holds it
    assert float(head_redundancy(A[[0, 0]])) == 1
    assert float(head_redundancy(torch.tensor([[1.0, 0], [0.5, 0.5]]))) == pytest.approx(math.sqrt(0.5))
    three = torch.stack([A[0], A[0], A[1]])
    assert float(head_redundancy(torch.stack([three, three]))) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"weights has shape \(1, 3\): at least two heads"):
        head_redundancy(A[:1])


def test_orthogonality_penalty():
    A = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    assert float(orthogonality_penalty(A)) == 0
    assert float(orthogonality_penalty(A[[0, 0]])) == 2
    assert float(orthogonality_penalty(torch.stack([A, A[[0, 0]]]))) == 1
    layer, H = random_layer(temperature=5.0), states()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)

    def redundancy():
        return float(head_redundancy(layer(H, need_weights=True)[1].detach()))

    before = redundancy()
    for _ in range(40):
        optimizer.zero_grad()
        orthogonality_penalty(layer(H, need_weights=True)[1]).backward()
        optimizer.step()
    assert redundancy() < 0.7 * before


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_dim": 0}, "input_dim=0: use an integer of at least 1"),
        ({"num_heads": 0}, "num_heads=0: use an integer of at least 1"),
        ({"rank": 0}, "rank=0: use an integer of at least 1"),
        ({"rank": 1.5}, "rank=1.5: use an integer of at least 1"),
        ({"project_dim": 0}, "project_dim=0: use an integer of at least 1"),
        ({"output_dim": 0}, "output_dim=0: use an integer of at least 1"),
        ({"project_dim": 3, "project": False}, "project_dim=3 with project=False: leave it out"),
        ({"context": "max"}, "context='max': use one of 'learned', 'mean', 'given'"),
        ({"activation": "relu"}, "activation='relu': use one of 'tanh', None"),
        ({"normalize": "l1"}, "normalize='l1': use one of 'l2', None"),
        ({"on_empty": "nan"}, "on_empty='nan': use one of 'error', 'zeros'"),
        ({"init": "zeros"}, "init='zeros': use one of 'xavier', 'port'"),
        ({"temperature": -1.0}, "temperature=-1.0: use a finite number of at least 0"),
        ({"temperature": math.inf}, "temperature=inf: use a finite number of at least 0"),
        ({"eps": 0.0}, "eps=0.0: use a positive number"),
    ],
)
def test_bad_options(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LAMA(**{"input_dim": 4} | options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda H: ([["a", "text"]],), TypeError, "hidden is list: .* for raw text use fullrank.nn.LAMATextClassifier"),
        (lambda H: ("a text",), TypeError, "hidden is str: .*LAMATextClassifier"),
        (lambda H: (H[..., :5],), ValueError, r"hidden has shape \(2, 5, 5\): \(batch, tokens, 6\) is accepted"),
        (lambda H: (H[0],), ValueError, r"hidden has shape \(5, 6\): \(batch, tokens, 6\) is accepted"),
        (lambda H: (H.long(),), ValueError, "hidden is torch.int64: states are floating-point numbers"),
        (lambda H: (H, torch.ones(5, 2)), ValueError, r"mask has shape \(5, 2\): \(batch, tokens\) = \(2, 5\)"),
        (lambda H: (H, torch.ones(2, 5) / 2), ValueError, "mask holds other values than 0 and 1"),
        (lambda H: (H, None, torch.ones(6)), ValueError, "context='learned' makes its own: use context='given'"),
    ],
)
def test_bad_calls(arguments, error, message, unchecked):
    with pytest.raises(error, match=message):
        random_layer()(*arguments(states()))


def test_bad_masks_and_contexts(unchecked):
    layer, H = random_layer(context="given"), states()
    with pytest.raises(ValueError, match="context='given', but none was passed"):
        layer(H)
    for context in (torch.ones(5), torch.ones(3, 6), torch.ones(2, 1, 6)):
        with pytest.raises(ValueError, match=r"context has shape .*: \(2, 6\) or \(6,\) is accepted"):
            layer(H, context=context)
    with pytest.raises(ValueError, match="give one of them"):
        layer(H, torch.ones(2, 5), torch.ones(6), key_padding_mask=torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(2, 4\)"):
        layer(H, context=torch.ones(6), key_padding_mask=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"hidden has shape \(2, 5, 5\): \(tokens, batch, 6\) is accepted"):
        random_layer(batch_first=False)(H[..., :5].transpose(0, 1))
