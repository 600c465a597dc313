"""Gradient spectra of attention projections: T x T cores against the full SVD of every formed gradient.

The peers do what the paper's scripts do: one sample after another, one backward pass into `.grad`, and an SVD of the
d x d gradient of every projection; "full" with singular vectors, as published, "svdvals" without. Model: a Llama-shaped
transformer of two layers with random weights, float32. Targets: at least 50 times faster than "full" end to end at
d = 1024 and T up to 256, at the same metrics to 1e-3; measuring costs no more than the backward pass for T up to 512.
The first table has the spectrum of one gradient, without the passes that end to end both sides pay for.

    python benchmarks/gradient_spectra.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from _timing import Pairs, alternate, show
from fullrank.spectra import GradientFactors, GradientSpectra

LENGTHS = (64, 128, 256)
OVERHEAD = ((1024, 256), (1024, 512), (2048, 256))
KINDS = ("q", "k", "v", "o")


def llama(dim: int, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=dim, intermediate_size=2 * dim, num_attention_heads=8, num_hidden_layers=layers
    )
    return LlamaForCausalLM(config).eval()


def sample(length: int) -> tuple[Tensor, Tensor]:
    """Token ids, and labels on the second half."""
    ids = torch.randint(1, 512, (length,), generator=torch.Generator().manual_seed(length))
    labels = ids.clone()
    labels[: length // 2] = -100
    return ids, labels


def ours(measure: GradientSpectra, ids: Tensor, labels: Tensor) -> Tensor:
    """Effective rank and nuclear norm, (2, layers, projections)."""
    report = measure.score(input_ids=[ids], labels=[labels])
    return torch.stack([report.metrics["effective_rank"][0], report.metrics["nuclear_norm"][0]])


def peer(model: LlamaForCausalLM, ids: Tensor, labels: Tensor, values_of: Callable[[Tensor], Tensor]) -> Tensor:
    model.zero_grad()
    model(input_ids=ids[None], labels=labels[None]).loss.backward()
    found = []
    for layer in model.model.layers:
        for kind in KINDS:
            values = values_of(getattr(layer.self_attn, f"{kind}_proj").weight.grad)
            p = values / values.sum()
            found.append(torch.stack([torch.special.entr(p).sum().exp(), values.sum()]))
    return torch.stack(found, -1).view(2, -1, len(KINDS)).double()


def full(gradient: Tensor) -> Tensor:
    return torch.linalg.svd(gradient)[1]


def one_gradient() -> list[list[str]]:
    """The spectrum from the two factors against that of the formed matrix."""
    rows = []
    for length in LENGTHS:
        factors = GradientFactors(*torch.randn(2, length, 1024, generator=torch.Generator().manual_seed(0)))
        G = factors.dense()
        for name, values_of in (("full", full), ("svdvals", torch.linalg.svdvals)):
            pairs = alternate(factors.values, partial(values_of, G), pairs=3)
            values, reference = factors.values().double(), values_of(G).double()
            rows.append([f"{name}, T = {length}", *pairs.cells(), f"{float(values.sum() / reference.sum() - 1):.1e}"])
    return rows


def end_to_end() -> list[list[str]]:
    model = llama(1024)
    measure = GradientSpectra(model, similarities=())
    rows = []
    for name, values_of in (("full", full), ("svdvals", torch.linalg.svdvals)):
        for length in LENGTHS[1:]:
            ids, labels = sample(length)
            mine, theirs = partial(ours, measure, ids, labels), partial(peer, model, ids, labels, values_of)
            pairs = alternate(mine, theirs, pairs=3)
            error = float((mine() / theirs() - 1).abs().amax())
            rows.append([f"{name}, T = {length}", *pairs.cells(), f"{error:.1e}"])
    return rows


def overhead() -> list[list[str]]:
    """What is measured beside the forward and backward pass that it needs, as a share of the backward pass alone."""
    rows = []
    for dim, length in OVERHEAD:
        model = llama(dim)
        ids, labels = sample(length)
        pairs = alternate(
            partial(ours, GradientSpectra(model, similarities=()), ids, labels),
            partial(gradients, model, ids, labels),
            3,
        )
        forward = alternate(partial(loss, model, ids, labels), partial(gradients, model, ids, labels), 3)
        rows.append([f"d = {dim}, T = {length}", *pairs.cells()[:2], *shares(pairs, forward)])
    return rows


def shares(whole: Pairs, forward: Pairs) -> list[str]:
    backward = statistics.median(forward.peer) - statistics.median(forward.ours)
    extra = [(ours - both) / backward for ours, both in zip(whole.ours, whole.peer, strict=True)]
    return [f"{statistics.median(extra):.2f}x", f"{min(extra):.2f}-{max(extra):.2f}"]


def loss(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    return model(input_ids=ids[None], labels=labels[None]).loss


def gradients(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> None:
    """Forward and backward, with the gradients of all weights as training takes them."""
    model.zero_grad()
    loss(model, ids, labels).backward()


def main() -> None:
    threads = torch.get_num_threads()
    columns = ["peer", "cores", "peer", "faster", "min-max", "differs by"]
    show(f"one gradient, d = 1024, {threads} threads", columns, one_gradient())
    show("one sample, d = 1024, two layers, end to end (target 50x of full)", columns, end_to_end())
    columns = ["", "score", "forward, backward", "more", "min-max"]
    show("more than forward and backward, in backward passes (target 1x)", columns, overhead())


if __name__ == "__main__":
    main()
