"""LaMDA and LaMDA++: a small square map between two thin projections (Azizi et al. 2024, arXiv 2406.12832).

    y = W0 x + b0 + s B S A x

A (r, in) and B (out, r) start as the leading singular vectors of W0. A never trains; B trains at first and is frozen
column by column, the strongest direction first; S (r, r) trains to the end. So the change acts in the principal
subspace of the weight, and a backward pass needs r numbers per token instead of the whole input.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fullrank.adapt._peft import get_pattern_key
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta, FrozenLayer
from fullrank.adapt.lamda_freezing import FreezeLaw, frozen_columns, guard, release
from fullrank.adapt.lamda_ranks import Budget, allocate_ranks, check_candidates, check_rank
from fullrank.adapt.layer import DeltaLayer
from fullrank.adapt.registration import register
from fullrank.adapt.sharding import in_parallel, own_rows
from fullrank.adapt.tuner import DeltaModel
from fullrank.linalg import singular_values, svd

Start = Literal["svd_residual", "svd_zero", "official"]

_CHOICES = {
    "init": get_args(Start),
    "svd": ("auto", "full", "randomized"),
    "freeze_order": ("descending", "ascending"),
    "freeze_law": get_args(FreezeLaw),
    "dropout_position": ("rank", "input"),
    "rank_allocation": ("none", "waterfill", "groups"),
    "rank_budget": get_args(Budget),
    "init_weights": (True, False),
}
_EXACT_SIDE = 2048  # largest smaller side whose exact decomposition svd="auto" waits for
_PATIENCE = 10  # training passes without a schedule before the warning


@dataclass
class LamdaConfig(DeltaConfig):
    """Configuration of LaMDA; the fields that it shares with every adapter are those of `DeltaConfig`.

    Args:
        r: rank of the change, and with `rank_allocation` the mean rank. Default 32.
        lamda_alpha: s = lamda_alpha / r; None (default) is s = 1.
        init: "svd_residual" (default) takes the principal part of W0 over: S starts at its singular values over s and
            the change is counted from there. "svd_zero" starts at S = 0. "official" is the released script: random A
            and S, B = 0. All of them start as the base model.
        svd: "full", "randomized", or "auto" (default): full up to a smaller side of 2048.
        svd_seed: seed of the randomised decomposition. Default 0.
        freeze_fraction: eta, the share of the training steps after which all of B is frozen; 0 from the start, 1 only
            at the end, None never. Default 0.3.
        freeze_steps: the same as a number of optimiser steps; takes the place of `freeze_fraction`. Default None.
        freeze_order: "descending" (default) freezes the columns of the largest singular values first.
        freeze_law: "linear" (default), or "official" for the released code, which freezes next to nothing.
        lamda_dropout: probability of dropout. Default 0.
        dropout_position: "rank" (default) drops of the r numbers A x; "input" drops of x, which stores a mask as wide
            as the layer.
        rank_allocation: LaMDA++: "waterfill" or "groups" spread the ranks over the layers by the spectra of their
            weights and write them into `rank_pattern`; layers that it names already keep theirs. Default "none".
        rank_candidates: ranks that LaMDA++ chooses from; default a quarter, a half, 1, 3/2 and 7/4 of `r`.
        rank_budget: LaMDA++ spends "rank" (default), the sum of r, or "parameters", the sum of r^2.
        rank_pattern: layer name or regular expression -> another `r`.
        alpha_pattern: layer name or regular expression -> another `lamda_alpha`.

    Raises:
        ValueError: a value out of range.
    """

    method: ClassVar[str] = "lamda"
    patterns: ClassVar[dict[str, str]] = {"rank_pattern": "r", "alpha_pattern": "lamda_alpha"}

    r: int = 32
    lamda_alpha: int | float | None = None
    init: Start = "svd_residual"
    svd: Literal["auto", "full", "randomized"] = "auto"
    svd_seed: int = 0
    freeze_fraction: int | float | None = 0.3
    freeze_steps: int | None = None
    freeze_order: Literal["descending", "ascending"] = "descending"
    freeze_law: FreezeLaw = "linear"
    lamda_dropout: int | float = 0.0
    dropout_position: Literal["rank", "input"] = "rank"
    rank_allocation: Literal["none", "waterfill", "groups"] = "none"
    rank_candidates: list[int] | None = None
    rank_budget: Budget = "rank"
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_numbers()
        check_rank("r", self.r)
        for name, accepted in _CHOICES.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(map(repr, accepted))}")
        if self.lamda_alpha is not None and not (math.isfinite(self.lamda_alpha) and self.lamda_alpha != 0):
            raise ValueError(f"lamda_alpha={self.lamda_alpha}: use a finite number other than 0, or None for s = 1")
        if self.freeze_fraction is not None and not 0 <= self.freeze_fraction <= 1:
            raise ValueError(f"freeze_fraction={self.freeze_fraction}: use a share in [0, 1], or None to freeze never")
        if self.freeze_steps is not None and (not isinstance(self.freeze_steps, int) or self.freeze_steps < 0):
            raise ValueError(f"freeze_steps={self.freeze_steps!r}: use a number of optimiser steps of at least 0")
        if not 0 <= self.lamda_dropout < 1:
            raise ValueError(f"lamda_dropout={self.lamda_dropout}: use a probability in [0, 1)")
        if self.rank_candidates is not None:
            self.rank_candidates = check_candidates(self.rank_candidates, "rank_candidates")
        super().__post_init__()

    @property
    def scaling(self) -> float:
        """s."""
        return 1.0 if self.lamda_alpha is None else self.lamda_alpha / self.r

    def freeze_end(self, total_steps: int | None) -> int | float | None:
        """eta T, the optimiser step from which all of B is frozen; None for never.

        Raises:
            ValueError: it depends on `total_steps`, which is unknown.
        """
        if self.freeze_steps is not None:
            return self.freeze_steps
        if not self.freeze_fraction:
            return self.freeze_fraction
        if total_steps is None or total_steps < 1:
            raise ValueError(
                f"total_steps={total_steps}: freeze_fraction={self.freeze_fraction} is a share of a number of steps "
                "that has to be known; pass it, or set freeze_steps in LamdaConfig"
            )
        return self.freeze_fraction * total_steps


class LamdaDelta(Delta):
    """s B S A on one linear layer; with "svd_residual" s (B S - B0 diag(S0)) A, where B0 and S0 are the start.

    Attributes:
        frozen: how many columns of B are frozen.
        steps: how many optimiser steps the schedule has counted.
    """

    shown = ("A", "S", "B")

    A: Tensor
    B0: Tensor | None
    S0: Tensor | None
    progress: Tensor
    kept: Tensor | None

    def __init__(self, base: FrozenLayer, config: LamdaConfig) -> None:
        super().__init__(base, config)
        limit = min(base.out_features, base.in_features)
        if config.r > limit:
            raise ValueError(
                f"r={config.r}: {base.name!r} is {base.out_features} x {base.in_features}, use 1..{limit} there; "
                "rank_pattern sets the rank of single layers"
            )
        self.config, self.scaling = config, config.scaling
        self.dropout = nn.Dropout(config.lamda_dropout)
        taken_over = config.init == "svd_residual"
        self.S = nn.Parameter(torch.empty(config.r, config.r))
        self.B = nn.Parameter(torch.empty(base.out_features, config.r))
        self.register_buffer("A", torch.zeros(config.r, base.in_features))
        self.register_buffer("B0", torch.zeros(base.out_features, config.r) if taken_over else None)
        self.register_buffer("S0", torch.zeros(config.r) if taken_over else None)
        self.register_buffer("progress", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("kept", None, persistent=False)
        self.steps, self.frozen = 0, config.r if config.freeze_end(1) == 0 else 0
        self.scheduled, self.undriven = config.freeze_end(1) in (None, 0), 0

    def reset(self) -> None:
        """The leading singular vectors of W0, or the released script's random start."""
        self.progress.copy_(torch.tensor([self.steps, self.frozen]))
        if self.S.is_meta:
            return  # a checkpoint brings every factor
        if self.config.init_weights is False:
            for factor in (self.A, self.B, self.S):
                nn.init.uniform_(factor, -0.3, 0.3)
        elif self.config.init == "official":
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
            nn.init.zeros_(self.B)
            nn.init.uniform_(self.S, -1 / math.sqrt(self.config.r), 1 / math.sqrt(self.config.r))
        else:
            self._spectral_start()

    def weight(self) -> Float[Tensor, "out in"]:
        """s (B S - B0 diag(S0)) A."""
        return self.scaling * _change(self.B, self.S, self.B0, self.S0) @ self.A

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """The same change of activations: of the input only A x is kept for the backward pass."""
        self._warn_if_undriven()
        by_rank = self.config.dropout_position == "rank"
        h = nn.functional.linear(x if by_rank else self.dropout(x), self.A)
        h = self.scaling * (self.dropout(h) if by_rank else h)
        if torch.is_grad_enabled() or self._prefers_product(h):
            return cast(Tensor, _Change.apply(h, self.B, self.S, self.B0, self.S0, not self.held()))
        if self.B0 is None or self.S0 is None:
            return nn.functional.linear(nn.functional.linear(h, self.S), self.B)
        moved = nn.functional.linear(nn.functional.linear(h, self.S), self.B - self.B0)
        return moved + nn.functional.linear(nn.functional.linear(h, self.S - self.S0.diag()), self.B0)

    @property
    def trained(self) -> tuple[int, int]:
        """How many numbers are trained at the start, r^2 + r out with B, and at the end, r^2 without it."""
        end = self.config.freeze_end(1)
        return self.S.numel() + (end != 0) * self.B.numel(), self.S.numel() + (end is None) * self.B.numel()

    def held(self) -> tuple[str, ...]:
        """B, once all of it is frozen."""
        return ("B",) if self.frozen == self.config.r else ()

    def loaded(self) -> None:
        """Take the schedule up where the checkpoint left it."""
        self.steps, self.frozen = (int(value) for value in self.progress.tolist())
        self.kept = None
        if self.held():
            self.B.requires_grad_(False)

    @torch.no_grad()
    def freeze(self, step: int | None, total_steps: int | None) -> bool:
        """Freeze the columns of B whose turn it is before optimiser step `step`; whether that was the last of them."""
        end = self.config.freeze_end(total_steps)
        self.restore()
        self.steps, self.scheduled = self.steps if step is None else step, True
        before, rank = self.frozen, self.config.r
        if end is not None:
            self.frozen = max(before, frozen_columns(self.steps, rank, end, self.config.freeze_law))
        self.steps += 1
        self.progress.copy_(torch.tensor([self.steps, self.frozen]))
        if self.frozen == rank:
            self.B.requires_grad_(in_parallel())
            self.B.grad, self.kept = None, None
            return True
        if self.frozen and (self.kept is None or self.frozen != before):
            self.kept = own_rows(self.B)[:, self._frozen()].clone()
        if self.B.grad is not None:
            own_rows(self.B.grad)[:, self._frozen()] = 0
        return False

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what momentum and weight decay did to frozen columns."""
        if self.kept is not None:
            own_rows(self.B)[:, self._frozen()] = self.kept

    def _frozen(self) -> slice:
        if self.config.freeze_order == "descending":
            return slice(0, self.frozen)
        return slice(self.config.r - self.frozen, None)

    def _spectral_start(self) -> None:
        W0, r, name = self.base.weight, self.config.r, self.base.name
        if W0.is_meta:
            raise RuntimeError(_materialise(name, f"init={self.config.init!r}"))
        exact = self.config.svd == "full" or (self.config.svd == "auto" and min(W0.shape) <= _EXACT_SIDE)
        generator = torch.Generator(W0.device).manual_seed(self.config.svd_seed)
        method = "exact" if exact else "krylov"  # weights fall off slowly
        U, sigma, Vh = svd(W0, rank=r, method=method, generator=generator, name=f"the weight of {name!r}")
        self.A.copy_(Vh)
        self.B.copy_(U)
        if self.B0 is None or self.S0 is None:
            nn.init.zeros_(self.S)
            return
        self.B0.copy_(U)
        self.S0.copy_(sigma / self.scaling)
        self.S.copy_(self.S0.diag())

    def _prefers_product(self, h: Tensor) -> bool:
        """Whether B S, made first, costs fewer operations than two thin products for so many tokens."""
        (out, r), tokens = self.B.shape, h[..., 0].numel()
        return 2 * out * r < tokens * (2 * r + out) if self.B0 is not None else out < tokens

    def _warn_if_undriven(self) -> None:
        if self.scheduled or not self.training or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        self.undriven += 1
        if self.undriven == _PATIENCE and self.B.requires_grad:
            warnings.warn(
                f"{_PATIENCE} training passes and no schedule: B of LaMDA stays trainable; pass LamdaCallback() to the "
                "Trainer, or call freeze_step(model, step, total_steps, optimizer) before every optimizer.step()",
                stacklevel=2,
            )


def _change(B: Tensor, S: Tensor, B0: Tensor | None, S0: Tensor | None) -> Tensor:
    """B S - B0 diag(S0), written so that a small move from the start keeps its digits."""
    if B0 is None or S0 is None:
        return B @ S
    return (B - B0) @ S + B0 @ (S - S0.diag())


class _Change(torch.autograd.Function):
    """h (B S - B0 diag(S0))^T, the product made again in the backward pass: kept are h and what is kept anyway."""

    generate_vmap_rule = True  # torch.func differentiates and maps over samples

    @staticmethod
    def forward(h: Tensor, B: Tensor, S: Tensor, B0: Tensor | None, S0: Tensor | None, trains_B: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return h @ _change(B, S, B0, S0).to(h.dtype).mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.trains_B = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g,), (h, B, S, B0, S0) = gradients, ctx.saved_tensors
        change, rows = _change(B, S, B0, S0), h.reshape(-1, h.shape[-1])
        if not (ctx.needs_input_grad[1] and ctx.trains_B):  # dS = (g B)^T h, and g is read once for it and dh
            dh, gB = (g @ torch.cat([change, B], 1).to(g.dtype)).chunk(2, -1)
            dB = torch.zeros_like(B) if ctx.needs_input_grad[1] else None
            return dh, dB, (gB.reshape(rows.shape).mT @ rows).to(S.dtype), None, None, None
        dh = g @ change.to(g.dtype) if ctx.needs_input_grad[0] else None
        moved = (g.reshape(-1, g.shape[-1]).mT @ rows).to(B.dtype)
        return dh, moved @ S.mT, B.mT @ moved, None, None, None


class LamdaTuner(DeltaModel):
    """The tuner of LaMDA: allocates ranks before injection, freezes B, converts to LoRA."""

    def freeze_step(
        self, step: int | None = None, total_steps: int | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Freeze what the schedule says; see the function `freeze_step`."""
        freeze_step(self, step, total_steps, optimizer)

    def print_trainable_parameters(self, adapter_name: str = "default") -> None:
        """Print how many parameters the adapter trains at the start and at the end."""
        trained = [delta.trained for delta in deltas_of(self, adapter_name).values()]
        start, end = sum(first for first, _ in trained), sum(last for _, last in trained)
        everything = sum(parameter.numel() for parameter in self.parameters())
        print(f"trainable params at the start: {start:,d} || at the end: {end:,d} || all params: {everything:,d}")

    @torch.no_grad()
    def to_lora(self, adapter_name: str = "default") -> tuple[LoraConfig, dict[str, Tensor]]:
        """The same change as a LoRA adapter, exactly: lora_A = A, lora_B = s (B S - B0 diag(S0)), scale 1.

        Args:
            adapter_name: the adapter.

        Returns:
            (config, tensors), as `peft.convert_to_lora` returns them: `get_peft_model` takes the config,
            `set_peft_model_state_dict` the tensors.

        Raises:
            ValueError: no layer carries the adapter.
        """
        ranks, tensors = {}, {}
        for name, delta in deltas_of(self, adapter_name).items():
            ranks[name] = delta.config.r
            tensors[f"base_model.model.{name}.lora_A.weight"] = delta.A.clone()
            lora_B = delta.scaling * _change(delta.B, delta.S, delta.B0, delta.S0)
            tensors[f"base_model.model.{name}.lora_B.weight"] = lora_B
        names = "|".join(re.escape(name) for name in ranks)
        patterns = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}
        transposed = any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers_of(self))
        config = LoraConfig(
            target_modules=names, rank_pattern=patterns, alpha_pattern=dict(patterns), fan_in_fan_out=transposed
        )
        return config, tensors

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: LamdaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if peft_config.rank_allocation != "none" and not _named(peft_config, current_key):
            self._allocate(peft_config)
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, current_key, parameter_name)

    def _allocate(self, config: LamdaConfig) -> None:
        spectra = {}
        for name, module in list(self.model.named_modules()):
            if _named(config, name) or not self._check_target_module_exists(config, name):
                continue
            parent = self.model.get_submodule(name.rpartition(".")[0])
            layer = module if isinstance(module, DeltaLayer) else self._wrap(module, parent, name, config)
            weight, _ = layer._read()
            if weight.is_meta:
                raise RuntimeError(_materialise(name, f"rank_allocation={config.rank_allocation!r}"))
            spectra[name] = singular_values(weight, name=f"the weight of {name!r}")
        if not spectra:
            return
        ranks = allocate_ranks(
            spectra, config.r, config.rank_candidates, cast(Any, config.rank_allocation), config.rank_budget
        )
        # PEFT takes the first key that the name ends in, so a longer name goes before the one that it ends in.
        config.rank_pattern = config.rank_pattern | dict(sorted(ranks.items(), key=lambda item: -item[0].count(".")))


def freeze_step(
    model: nn.Module,
    step: int | None = None,
    total_steps: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Freeze the columns of B whose turn it is; call it after `backward()` and before every `optimizer.step()`.

    Acts on the active adapters. Frozen columns get no gradient; when the last one freezes, B stops being trained. What
    is frozen stays frozen, also after saving and loading.

    Args:
        model: a model with LaMDA layers.
        step: t, optimiser steps taken so far; default counts the calls, from the checkpoint on.
        total_steps: T, optimiser steps in all; not needed with `freeze_steps`, `freeze_fraction` 0 or None.
        optimizer: whose momentum and weight decay must not move frozen columns, and whose state of B is released at
            the end. Without it, columns that it moved are put back by the next call only.

    Raises:
        ValueError: no LaMDA layer is active, a negative step, or an unknown `total_steps` that is needed.
    """
    if step is not None and step < 0:
        raise ValueError(f"step={step}: use the number of optimiser steps taken so far, at least 0")
    deltas = [cast(LamdaDelta, delta) for layer in layers_of(model) for delta in layer._present(layer.active_adapters)]
    if not deltas:
        raise ValueError("no layer of the model has an active LaMDA adapter: add one, or make it active")
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps the one that steps
    if optimizer is not None:
        guard(optimizer, deltas)
    finished = {delta.B for delta in deltas if delta.freeze(step, total_steps)}
    if optimizer is not None:
        release(optimizer, finished)


LamdaModel = cast(
    type[LamdaTuner],
    register(LamdaConfig, LamdaDelta, targets=TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, model=LamdaTuner),
)
LamdaLayer = LamdaModel.tuner_layer_cls
LamdaLinear = LamdaModel.layer_types[nn.Linear]


def layers_of(model: nn.Module) -> Iterator[DeltaLayer]:
    """Every LaMDA layer of a model."""
    return (cast(DeltaLayer, module) for module in model.modules() if isinstance(module, LamdaLayer))


def deltas_of(model: nn.Module, adapter_name: str) -> dict[str, LamdaDelta]:
    """Layer name -> delta of an adapter.

    Raises:
        ValueError: no layer carries the adapter.
    """
    found = {
        delta.base.name: cast(LamdaDelta, delta)
        for layer in layers_of(model)
        for delta in layer._present([adapter_name])
    }
    if not found:
        raise ValueError(f"no layer of the model carries a LaMDA adapter {adapter_name!r}")
    return found


def _named(config: LamdaConfig, name: str) -> bool:
    return get_pattern_key(cast(Any, config.rank_pattern), name) in config.rank_pattern


def _materialise(name: str, option: str) -> str:
    return f"{name!r} is on the meta device, and {option} needs its singular vectors: materialise the base model first"
