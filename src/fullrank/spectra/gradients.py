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
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fullrank.spectra import ranks
from fullrank.spectra.gradient_factors import CoreMethod, GradientFactors, cosine
from fullrank.spectra.gradient_report import SpectraReport, Status
from fullrank.spectra.projections import Projection, attention_projections, matching_projections

METRICS = ("nuclear_norm", "effective_rank", "frobenius", "stable_rank", "mean", "max", "min")
SIMILARITIES = ("same_layer", "adjacent", "layers")
_DEFAULT_METRICS = ("nuclear_norm", "effective_rank", "frobenius", "stable_rank")
_PAIRS = (("q", "o"), ("k", "v"))
_ZERO = 1e-12  # the authors skip gradients of a smaller nuclear norm
_IGNORED = -100


class GradientSpectra:
    """Per-sample gradient spectra of a causal language model.

    The model's weights, `.grad`, `requires_grad` flags and train mode are left as they were found.

    Args:
        model: a transformers causal language model (or any module whose call with `input_ids` and `attention_mask`
            returns `.logits`); also wrapped by PEFT, whose base weights are then measured.
        tokenizer: needed for `texts`.
        modules: "attention" (query, key, value, output of every layer), "all-linear", or a regular expression over
            module names.
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
        if chat:
            messages = [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": prompt},
            ]
            prefix = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            prefix = prompt + "\n"
        fast = getattr(self.tokenizer, "is_fast", False)
        encoded = self.tokenizer(prefix + response, truncation=True, max_length=max_length, return_offsets_mapping=fast)
        ids = torch.tensor(encoded["input_ids"])
        labels = ids.clone()
        if fast:  # a token that begins before the response belongs to the prompt
            before = [begin < len(prefix) or begin == end for begin, end in encoded["offset_mapping"]]
            labels[torch.tensor(before, dtype=torch.bool)] = _IGNORED
        else:
            labels[: len(self.tokenizer(prefix)["input_ids"])] = _IGNORED
        return ids, labels

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Eval mode, frozen weights, an embedding output that asks for a gradient; all undone afterwards."""
        modes = {module: module.training for module in self.model.modules()}
        dropout = [m for m in self.model.modules() if isinstance(m, nn.Dropout) and m.p > 0 and m.training]
        if self.strict and dropout:
            raise ValueError("the model is in train mode with dropout: call model.eval(), or leave strict=False")
        flags = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]  # every transformers model has it
        hook = embedding.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_())
        try:
            self.model.eval()
            for parameter in flags:
                parameter.requires_grad_(False)
            with torch.enable_grad():
                yield
        finally:
            hook.remove()
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
            for module, training in modes.items():
                module.training = training

    def _score_batch(self, samples: list[tuple[Tensor, Tensor]]) -> SpectraReport:
        ids, labels, mask = _padded(samples, next(self.model.parameters()).device)
        with _Capture(self.projections) as capture:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            extra = {"position_ids": positions} if _takes_positions(self.model) else {}
            logits = self.model(input_ids=ids, attention_mask=mask, **extra).logits
            losses = _mean_response_loss(logits, labels)
            answered = losses.isfinite()
            # A sum over samples of mean token losses: each sample's gradient is the one it would have alone.
            if bool(answered.any()):
                losses[answered].sum().backward()
        rows = [self._measure_sample(capture, index, mask[index]) for index in range(len(samples))]
        status: list[Status] = []
        for index, row in enumerate(rows):
            if not answered[index]:
                status.append("no_response_tokens")
                row.blank()
            else:
                status.append("zero_gradient" if row.zero else "ok")
        return SpectraReport(
            kinds=self.kinds,
            metrics={name: torch.stack([row.metrics[name] for row in rows]) for name in self.metrics},
            similarities={name: torch.stack([row.similarities[name] for row in rows]) for name in rows[0].similarities},
            n_response_tokens=(labels[:, 1:] != _IGNORED).sum(-1).cpu(),
            loss=losses.detach().double().cpu(),
            status=tuple(status),
            values=tuple(row.values for row in rows) if self.keep_values else (),
            silent=tuple(p.name for p in self.projections if p.name not in capture.outputs),
        )

    def _measure_sample(self, capture: _Capture, index: int, mask: Tensor) -> _Row:
        row = _Row(self.metrics, self.layers, len(self.kinds))
        factors: dict[tuple[int, str], GradientFactors] = {}
        for projection in self.projections:
            factor = capture.factors(projection, index, mask)
            if factor is None:
                continue
            factors[projection.layer, projection.kind] = factor
            values = factor.values(self.method).double().cpu()
            if self.keep_values:
                row.values[projection.name] = values
            at = projection.layer, self.kinds.index(projection.kind)
            if float(values.sum()) < _ZERO:
                row.zero = True
                continue
            for name in self.metrics:
                row.metrics[name][at] = _metric(name, values, factor)
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

    def blank(self) -> None:
        for table in (*self.metrics.values(), *self.similarities.values()):
            table.fill_(torch.nan)


class _Capture:
    """Inputs and output gradients of the projections' modules, during one forward and backward pass."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        self.projections = projections
        self.inputs: dict[nn.Module, Tensor] = {}
        self.gradients: dict[nn.Module, Tensor] = {}
        self.outputs: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> _Capture:
        for module in {projection.module: None for projection in self.projections}:
            handle = module.register_forward_hook(self._keep)
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.outputs |= {projection.name for projection in self.projections if projection.module is module}
        self.inputs[module] = inputs[0].detach()  # query, key and value of one layer share this tensor
        if output.requires_grad:  # not in the first, gradient-free pass of a checkpointed layer
            output.register_hook(lambda gradient: self.gradients.__setitem__(module, gradient.detach()))

    def factors(self, projection: Projection, index: int, mask: Tensor) -> GradientFactors | None:
        """The sample's gradient, or None where the module was not called (an expert without tokens)."""
        if projection.module not in self.gradients:
            return None
        D = projection.select(self.gradients[projection.module][index])
        return GradientFactors.of_sample(D[mask.bool()], self.inputs[projection.module][index][mask.bool()])


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


def _mean_response_loss(
    logits: Float[Tensor, "batch length vocabulary"], labels: Int[Tensor, "batch length"]
) -> Tensor:
    """Mean cross entropy over each sample's response tokens; NaN for a sample without any."""
    targets = labels[:, 1:]
    # nll of ignored positions is 0, so the sum is over response tokens
    token = F.cross_entropy(logits[:, :-1].float().mT, targets, ignore_index=_IGNORED, reduction="none")
    return token.sum(-1) / (targets != _IGNORED).sum(-1)


def _unpadded(
    input_ids: Any, labels: Any, attention_mask: Tensor | None, max_length: int
) -> list[tuple[Tensor, Tensor]]:
    if labels is None:
        raise ValueError("`input_ids` need `labels`, -100 wherever no loss is taken")
    if len(input_ids) != len(labels):
        raise ValueError(f"{len(input_ids)} samples of input_ids do not fit {len(labels)} of labels")
    samples = []
    for index, (ids, label) in enumerate(zip(input_ids, labels)):
        if len(ids) != len(label):
            raise ValueError(f"sample {index}: {len(ids)} input_ids do not fit {len(label)} labels")
        if attention_mask is not None:
            keep = attention_mask[index].bool()
            if bool((label[~keep] != _IGNORED).any()):
                raise ValueError(f"sample {index}: padding under a label; set labels to {_IGNORED} where the mask is 0")
            ids, label = ids[keep], label[keep]
        samples.append((ids[:max_length], label[:max_length]))
    return samples


def _padded(samples: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(ids) for ids, _ in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels = torch.full_like(ids, _IGNORED)
    mask = torch.zeros_like(ids)
    for row, (sample, label) in enumerate(samples):
        ids[row, : len(sample)], labels[row, : len(label)], mask[row, : len(sample)] = sample, label, 1
    return ids.to(device), labels.to(device), mask.to(device)


def _takes_positions(model: nn.Module) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def _require_known(argument: str, given: Sequence[str], accepted: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in accepted]:
        raise ValueError(f"{argument}={unknown[0]!r} is not known; accepted: {', '.join(map(repr, accepted))}")
