"""Layer-wise spectra of per-sample gradients (Li, Li, Li and Zhou, ACL 2026, arXiv 2504.10766).

For every training sample: the gradient of its mean response loss with respect to every attention projection, and the
singular values of each. One backward pass serves a whole batch, no weight gradient is ever formed, and spectra come
from T x T cores (see `GradientFactors`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fullrank.spectra import ranks
from fullrank.spectra.gradient_factors import CoreMethod, GradientFactors, cosine
from fullrank.spectra.gradient_report import SpectraReport, Status
from fullrank.spectra.modes import evaluating
from fullrank.spectra.projections import (
    Projection,
    adapter_projections,
    attention_projections,
    matching_projections,
)
from fullrank.spectra.responses import IGNORED, encode_response, mean_response_loss

METRICS = ("nuclear_norm", "effective_rank", "frobenius", "stable_rank", "mean", "max", "min")
SIMILARITIES = ("same_layer", "adjacent", "layers")
_DEFAULT_METRICS = ("nuclear_norm", "effective_rank", "frobenius", "stable_rank")
_PAIRS = (("q", "o"), ("k", "v"))
_ZERO = 1e-12  # the authors skip gradients of a smaller nuclear norm


class GradientSpectra:
    """Per-sample gradient spectra of a causal language model.

    The model's weights, `.grad`, `requires_grad` flags and train mode are left as they were found.

    Args:
        model: a transformers causal language model (or any module whose call with `input_ids` and `attention_mask`
            returns `.logits`); also wrapped by PEFT, whose base weights are then measured.
        tokenizer: needed for `texts`.
        modules: "attention" (query, key, value, output of every layer), "all-linear", "adapters" (the two factors of
            every LoRA adapter), or a regular expression over module names.
        metrics: some of "nuclear_norm", "effective_rank", "frobenius", "stable_rank", "mean", "max", "min".
        similarities: "same_layer" (Q with O, K with V), "adjacent" (each projection with that of the next layer),
            "layers" (all pairs of layers).
        method: "core", "dense" or "auto"; see `GradientFactors.values`.
        align: how Q is paired with O; see `cosine`.
        keep_values: keep every singular value in the report.
        strict: refuse a model in train mode with dropout instead of switching it to eval for the measurement.

    Raises:
        ValueError: an unknown option, or no module matches.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        *,
        modules: str = "attention",
        metrics: Sequence[str] = _DEFAULT_METRICS,
        similarities: Sequence[str] = ("same_layer", "adjacent"),
        method: CoreMethod = "auto",
        align: Literal["raw", "transpose"] = "raw",
        keep_values: bool = False,
        strict: bool = False,
    ) -> None:
        _require_known("metrics", metrics, METRICS)
        _require_known("similarities", similarities, SIMILARITIES)
        _require_known("method", [method], ("auto", "core", "dense"))
        _require_known("align", [align], ("raw", "transpose"))
        self.model = model
        self.tokenizer = tokenizer
        self.metrics = tuple(metrics)
        self.similarities = tuple(similarities)
        self.method: CoreMethod = method
        self.align: Literal["raw", "transpose"] = align
        self.keep_values = keep_values
        self.strict = strict
        if modules == "attention":
            self.projections = attention_projections(model)
        elif modules == "adapters":
            self.projections = adapter_projections(model)
        else:
            self.projections = matching_projections(model, None if modules == "all-linear" else modules)
        self.kinds = tuple(dict.fromkeys(projection.kind for projection in self.projections))
        self.layers = 1 + max(projection.layer for projection in self.projections)

    def score(
        self,
        texts: Sequence[tuple[str, str]] | None = None,
        *,
        input_ids: Sequence[Tensor] | Tensor | None = None,
        labels: Sequence[Tensor] | Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch_size: int = 8,
        max_length: int = 4096,
        chat: bool = False,
    ) -> SpectraReport:
        """Measure samples, given as texts or as token ids.

        Args:
            texts: (prompt, response) pairs; joined by a line break, or by the chat template with `chat`.
            input_ids: token ids: a list of 1-D tensors, or a padded (samples, length) tensor with `attention_mask`.
            labels: like `input_ids`, -100 wherever no loss is taken.
            attention_mask: (samples, length), 1 on real tokens.
            batch_size: samples in one forward and backward pass.
            max_length: longer samples are truncated.
            chat: use the tokenizer's chat template, as the authors do for instruct models.

        Raises:
            ValueError: neither or both kinds of input, unequal lengths, padding under a label, or a tokenizer missing.
        """
        if (texts is None) == (input_ids is None):
            raise ValueError("give either `texts` or `input_ids` with `labels`")
        if texts is not None:
            samples = [self.encode(prompt, response, max_length, chat) for prompt, response in texts]
        else:
            samples = _unpadded(input_ids, labels, attention_mask, max_length)
        parts = []
        with self._measuring():
            for start in range(0, len(samples), batch_size):
                parts.append(self._score_batch(samples[start : start + batch_size]))
        return SpectraReport.concatenate(parts)

    def encode(
        self, prompt: str, response: str, max_length: int = 4096, chat: bool = False
    ) -> tuple[Int[Tensor, "length"], Int[Tensor, "length"]]:
        """Token ids and labels of one text; labels are -100 before the response.

        Raises:
            ValueError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("`texts` need a tokenizer: GradientSpectra(model, tokenizer)")
        return encode_response(self.tokenizer, prompt, response, max_length, chat)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Eval mode, frozen weights, an embedding output that asks for a gradient; all undone afterwards."""
        dropout = [m for m in self.model.modules() if isinstance(m, nn.Dropout) and m.p > 0 and m.training]
        if self.strict and dropout:
            raise ValueError("the model is in train mode with dropout: call model.eval(), or leave strict=False")
        flags = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]  # every transformers model has it
        hook = embedding.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_())
        try:
            for parameter in flags:
                parameter.requires_grad_(False)
            with evaluating(self.model), torch.enable_grad():
                yield
        finally:
            hook.remove()
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)

    def _score_batch(self, samples: list[tuple[Tensor, Tensor]]) -> SpectraReport:
        ids, labels, mask = _padded(samples, next(self.model.parameters()).device)
        with _Capture(self.projections) as capture:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            extra = {"position_ids": positions} if _takes_positions(self.model) else {}
            logits = self.model(input_ids=ids, attention_mask=mask, **extra).logits
            losses = mean_response_loss(logits, labels)
            answered, finite = (labels[:, 1:] != IGNORED).any(-1), losses.isfinite()
            # A sum over samples of mean token losses: each sample's gradient is the one it would have alone.
            if bool(finite.any()):
                losses[finite].sum().backward()
        rows: list[_Row] = []
        status: list[Status] = []
        for index in range(len(samples)):
            if finite[index]:
                rows.append(self._measure_sample(capture, index, mask))
                status.append("zero_gradient" if rows[-1].zero else "ok")
            else:
                rows.append(self._row({}))
                status.append("non_finite_loss" if answered[index] else "no_response_tokens")
        return SpectraReport(
            kinds=self.kinds,
            metrics={name: torch.stack([row.metrics[name] for row in rows]) for name in self.metrics},
            similarities={name: torch.stack([row.similarities[name] for row in rows]) for name in rows[0].similarities},
            n_response_tokens=(labels[:, 1:] != IGNORED).sum(-1).cpu(),
            loss=losses.detach().double().cpu(),
            status=tuple(status),
            values=tuple(row.values for row in rows) if self.keep_values else (),
            silent=tuple(p.name for p in self.projections if p.module not in capture.called),
        )

    def _measure_sample(self, capture: _Capture, index: int, mask: Tensor) -> _Row:
        factors = {
            projection: factor
            for projection in self.projections
            if (factor := capture.factors(projection, index, mask)) is not None
        }
        row = self._row({(projection.layer, projection.kind): factor for projection, factor in factors.items()})
        for projection, factor in factors.items():
            values = factor.values(self.method).double().cpu()
            if self.keep_values:
                row.values[projection.name] = values
            at = projection.layer, self.kinds.index(projection.kind)
            if float(values.sum()) < _ZERO:
                row.zero = True
                continue
            for name in self.metrics:
                row.metrics[name][at] = _metric(name, values, factor)
        return row

    def _row(self, factors: Mapping[tuple[int, str], GradientFactors]) -> _Row:
        row = _Row(self.metrics, self.layers, len(self.kinds))
        row.similarities = self._similarities(factors)
        return row

    def _similarities(self, factors: Mapping[tuple[int, str], GradientFactors]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "same_layer" in self.similarities:
            pairs = [pair for pair in _PAIRS if set(pair) <= set(self.kinds)]
            table = torch.full((self.layers, len(pairs)), torch.nan, dtype=torch.float64)
            for layer in range(self.layers):
                for column, (a, b) in enumerate(pairs):
                    if (layer, a) in factors and (layer, b) in factors:
                        align = self.align if (a, b) == ("q", "o") else "raw"
                        table[layer, column] = cosine(factors[layer, a], factors[layer, b], align)
            found["same_layer"] = table
        if "adjacent" in self.similarities:
            table = torch.full((self.layers - 1, len(self.kinds)), torch.nan, dtype=torch.float64)
            for layer in range(self.layers - 1):
                for column, kind in enumerate(self.kinds):
                    if (layer, kind) in factors and (layer + 1, kind) in factors:
                        table[layer, column] = cosine(factors[layer, kind], factors[layer + 1, kind])
            found["adjacent"] = table
        if "layers" in self.similarities:
            table = torch.full((len(self.kinds), self.layers, self.layers), torch.nan, dtype=torch.float64)
            for column, kind in enumerate(self.kinds):
                for first in range(self.layers):
                    for second in range(first, self.layers):
                        if (first, kind) in factors and (second, kind) in factors:
                            value = cosine(factors[first, kind], factors[second, kind])
                            table[column, first, second] = table[column, second, first] = value
            found["layers"] = table
        return found


class _Row:
    """What one sample gives: NaN until measured."""

    def __init__(self, metrics: Sequence[str], layers: int, kinds: int) -> None:
        self.metrics = {name: torch.full((layers, kinds), torch.nan, dtype=torch.float64) for name in metrics}
        self.similarities: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.zero = False


class _Capture:
    """Inputs and output gradients of the projections' modules, during one forward and backward pass."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        self.projections = projections
        self.called: set[nn.Module] = set()
        self.calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Capture:
        for module in {projection.module: None for projection in self.projections}:
            handle = module.register_forward_hook(self._keep)
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.called.add(module)
        X = inputs[0].detach()  # query, key and value of one layer share this tensor
        calls = self.calls.setdefault(module, [])
        if output.requires_grad:
            output.register_hook(lambda gradient: calls.append((gradient.detach(), X)))

    def factors(self, projection: Projection, index: int, mask: Tensor) -> GradientFactors | None:
        """The sample's gradient, or None where none reached the module (an expert without tokens).

        A module that was called several times, as one that layers share, has the sum of the calls' gradients, whose
        factors are the calls' rows together.
        """
        calls = self.calls.get(projection.module)
        if not calls:
            return None
        D, X = zip(*((_by_sample(D, mask, projection), _by_sample(X, mask, projection)) for D, X in calls), strict=True)
        rows = mask[index].bool()
        return GradientFactors.of_sample(
            torch.cat([projection.select(part[index][rows]) for part in D]),
            torch.cat([part[index][rows] for part in X]),
        )


def _by_sample(tokens: Tensor, mask: Tensor, projection: Projection) -> Tensor:
    """(batch, length, dim), also of a module that sees the batch's tokens in one row after another."""
    if tokens.shape[:2] == mask.shape:
        return tokens
    if tokens.ndim == 2 and len(tokens) == mask.numel():
        return tokens.view(*mask.shape, -1)
    raise ValueError(
        f"{projection.name} sees a tensor of shape {tuple(tokens.shape)}, whose rows belong to no sample of a batch of "
        f"{tuple(mask.shape)} tokens; leave the module out with a regular expression as `modules`"
    )


def _metric(name: str, values: Tensor, factor: GradientFactors) -> Tensor:
    plain = {
        "nuclear_norm": ranks.nuclear_norm,
        "effective_rank": ranks.effective_rank,
        "frobenius": ranks.frobenius_norm,
        "stable_rank": ranks.stable_rank,
    }
    if name in plain:
        return plain[name](values)
    if name == "mean":
        return factor.mean()
    dense = factor.dense()
    return dense.max() if name == "max" else dense.min()


def _unpadded(
    input_ids: Any, labels: Any, attention_mask: Tensor | None, max_length: int
) -> list[tuple[Tensor, Tensor]]:
    if labels is None:
        raise ValueError("`input_ids` need `labels`, -100 wherever no loss is taken")
    if len(input_ids) != len(labels):
        raise ValueError(f"{len(input_ids)} samples of input_ids do not fit {len(labels)} of labels")
    samples = []
    for index, (ids, label) in enumerate(zip(input_ids, labels, strict=True)):
        if len(ids) != len(label):
            raise ValueError(f"sample {index}: {len(ids)} input_ids do not fit {len(label)} labels")
        if attention_mask is not None:
            keep = attention_mask[index].bool()
            if bool((label[~keep] != IGNORED).any()):
                raise ValueError(f"sample {index}: padding under a label; set labels to {IGNORED} where the mask is 0")
            ids, label = ids[keep], label[keep]
        samples.append((ids[:max_length], label[:max_length]))
    return samples


def _padded(samples: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(ids) for ids, _ in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, (sample, label) in enumerate(samples):
        ids[row, : len(sample)], labels[row, : len(label)], mask[row, : len(sample)] = sample, label, 1
    return ids.to(device), labels.to(device), mask.to(device)


def _takes_positions(model: nn.Module) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def _require_known(argument: str, given: Sequence[str], accepted: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in accepted]:
        raise ValueError(f"{argument}={unknown[0]!r} is not known; accepted: {', '.join(map(repr, accepted))}")
