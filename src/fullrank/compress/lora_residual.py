"""LoRA that goes on where a compression stopped: the base is the part of rank r, the adapter begins as what comes next.

    W = B A + scaling * lora_B lora_A + rest,   directions 1 to r, r + 1 to r + m, and the others of the SVD of L W R

PiSSA begins with the first directions of a dense weight, which it takes off the base; here they are the base,
factorised and frozen. The model begins as the one of rank r + m, and merging makes it one.

    model = init_lora_from_residual(model, FWSVDConfig(param_ratio=0.4), fisher, lora=LoraConfig(r=8, lora_alpha=8))
    ...                                                    # train it as any model of PEFT
    small = model.merge_and_unload()                       # factorised layers of rank r + 8
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.compress.fwsvd_model import FWSVDConfig, LowRankName, Sums, compress_low_rank
from fullrank.compress.layers import Layer
from fullrank.compress.statistics import SampleLosses
from fullrank.linalg import SVD
from fullrank.nn import LowRankLinear
from fullrank.nn.low_rank import split_factors

peft: Any = require("peft", "adapt")
_lora: Any = require("peft.tuners.lora.layer", "adapt")
_tuners: Any = require("peft.tuners.tuners_utils", "adapt")


def init_lora_from_residual(
    model: nn.Module,
    config: FWSVDConfig | None = None,
    weights: Mapping[str, Sums] | None = None,
    *,
    lora: Any = None,
    method: LowRankName = "fwsvd",
    data: Iterable[Any] | None = None,
    loss_fn: SampleLosses | None = None,
    copy: bool = False,
    adapter_name: str = "default",
) -> Any:
    """Factorise a trained model, and put LoRA beside the factors that begins as the directions they leave out.

    Args:
        model, config, weights, method, data, loss_fn, copy: see `compress_low_rank`, which makes the base.
        lora: a `peft.LoraConfig`; default of rank 8 and scaling 1. Without `target_modules` it is for every layer that
            was factorised. Layers that it names beside those begin as LoRA does, and so do directions that a layer has
            no more of.
        adapter_name: in PEFT.

    Returns:
        A `peft.PeftModel`. Its `low_rank_report()` is the base's.

    Raises:
        ValueError: no layer was factorised, a `lora` whose start is another one or whose scaling is not positive, and
            see `compress_low_rank`.
        KeyError: see `compress_low_rank`.
        TypeError: see `compress_low_rank`, and a `lora` that is none.
    """
    lora = _checked(peft.LoraConfig(r=8, lora_alpha=8) if lora is None else lora)
    most = max(lora.r, *lora.rank_pattern.values(), 0)
    left: dict[str, SVD] = {}

    def keep(layer: Layer, factors: SVD, rank: int) -> None:
        U, S, Vh = factors
        left[layer.name] = SVD(U[:, rank : rank + most].clone(), S[rank : rank + most], Vh[rank : rank + most].clone())

    small = compress_low_rank(
        model, config, weights, method=method, data=data, loss_fn=loss_fn, copy=copy, on_factors=keep
    )
    names = [name for name in left if isinstance(small.get_submodule(name), LowRankLinear)]
    if not names:
        raise ValueError(
            "no linear layer was factorised, so there is nothing to begin LoRA with: ask for smaller ranks"
        )
    if lora.target_modules is None:
        lora.target_modules = set(names)
    with _weights_shown(small):
        adapted = peft.get_peft_model(small, for_low_rank(lora), adapter_name)
    for name in names:
        layer = small.get_submodule(name)
        if isinstance(layer, LowRankLora):
            layer.start(adapter_name, left[name])
    return adapted


def load_lora(model: nn.Module, folder: str | Path, adapter_name: str = "default", **options: Any) -> Any:
    """A saved adapter, `PeftModel.save_pretrained`'s, on a model with factorised layers.

    Args:
        model: the base that the adapter was trained on, such as `fullrank.load` gives it; it is changed.
        folder: of the adapter, or its name on the Hugging Face hub.
        adapter_name: in PEFT.
        options: of `PeftModel.from_pretrained`, such as `is_trainable`.

    Returns:
        A `peft.PeftModel`.
    """
    config = for_low_rank(peft.PeftConfig.from_pretrained(str(folder)))
    with _weights_shown(model):
        return peft.PeftModel.from_pretrained(model, str(folder), adapter_name, config=config, **options)


def for_low_rank(config: Any) -> Any:
    """The `peft.LoraConfig`, with which PEFT puts LoRA on factorised layers too."""
    config._register_custom_module({LowRankLinear: LowRankLora})
    return config


class LowRankLora(_lora.Linear):
    """LoRA beside a `LowRankLinear`; merging makes the factors longer by the adapter's rank, and keeps them factors."""

    def start(self, adapter: str, directions: SVD) -> None:
        """Begin as these directions, as many as the adapter holds, with the roots of singular values on both sides."""
        U, S, Vh = directions
        rank = min(self.r[adapter], len(S))
        A, B = split_factors(SVD(U[:, :rank], S[:rank] / self.scaling[adapter], Vh[:rank]), "balanced")
        first, second = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        with torch.no_grad():
            first[:rank].copy_(A)
            second.zero_()
            second[:, :rank].copy_(B)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Make the adapters' factors part of the base's."""
        base = self.get_base_layer()
        for name in _tuners.check_adapters_to_merge(self, adapter_names):
            if name not in self.lora_A:
                continue
            A, B = self.lora_A[name].weight, self.lora_B[name].weight * self.scaling[name]
            if safe_merge and not bool(A.isfinite().all() and B.isfinite().all()):
                raise ValueError(f"the adapter {name!r} is not finite: it is not merged")
            kind = base.first.weight.dtype
            _resize(
                base,
                torch.cat([base.first.weight, A.to(kind)]),
                torch.cat([base.second.weight, B.to(kind)], 1),
            )
            if self.lora_bias[name]:
                self._shift(name, 1)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take the adapters' factors off the base's again, the last one first."""
        if not self.merged:
            warnings.warn("no adapter is merged: nothing to do", stacklevel=2)
        base = self.get_base_layer()
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            rank = base.rank - self.r[name]
            _resize(base, base.first.weight[:rank], base.second.weight[:, :rank])
            if self.lora_bias[name]:
                self._shift(name, -1)

    def _shift(self, adapter: str, sign: int) -> None:
        bias = self.get_base_layer().bias
        if bias is None:
            raise RuntimeError("lora_bias=True cannot be merged: the base layer has no bias")
        bias.data += sign * self.scaling[adapter] * self.lora_B[adapter].bias.data.to(bias.dtype)

    @property
    def lora_variants(self) -> dict[tuple[str, ...], None]:
        """Plain LoRA only: DoRA and others read a dense weight."""
        return {(): None}

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        layer: Any = module
        return layer.in_features, layer.out_features

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        layer: Any = base_layer
        return layer.second.weight.device, layer.second.weight.dtype


def _checked(lora: Any) -> Any:
    """A copy of a configuration that fits."""
    if not isinstance(lora, peft.LoraConfig):
        raise TypeError(f"lora is a {type(lora).__name__}: a peft.LoraConfig is accepted")
    if lora.init_lora_weights not in (True, False, "gaussian"):
        raise ValueError(
            f"init_lora_weights={lora.init_lora_weights!r} starts the adapter in another way: leave it out, for it "
            "begins with the residual"
        )
    if not all(alpha > 0 for alpha in (lora.lora_alpha, *lora.alpha_pattern.values())):
        raise ValueError(f"lora_alpha={lora.lora_alpha}: directions are divided by the scaling, which must be positive")
    return copy.deepcopy(lora)


def _resize(layer: LowRankLinear, A: Tensor, B: Tensor) -> None:
    """Give a layer factors of another rank."""
    trains = layer.first.weight.requires_grad
    layer.first.weight = nn.Parameter(A.detach().clone(), trains)
    layer.second.weight = nn.Parameter(B.detach().clone(), trains)
    layer.first.out_features = layer.second.in_features = len(A)


@contextmanager
def _weights_shown(model: nn.Module) -> Iterator[None]:
    """PEFT asks layers for the device of their `weight`, a method of factorised ones: show it a factor meanwhile."""
    layers = [layer for layer in model.modules() if isinstance(layer, LowRankLinear)]
    for layer in layers:
        layer.__dict__["weight"] = layer.second.weight
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["weight"]
