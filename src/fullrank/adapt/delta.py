"""A delta: one trainable change of one weight, the only thing that a new adapter has to define."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, repr=False)
class FrozenLayer:
    """The layer that a delta changes, as a linear map: y0 = W0 x + b0.

    Attributes:
        name: its module name in the model.
        out_features: rows of W0.
        in_features: columns of W0; in_channels * kernel size of a convolution, num_embeddings of an embedding.
        read: gives W0 (out, in) and b0 (out) as they are without any adapter, also while adapters are merged.
    """

    name: str
    out_features: int
    in_features: int
    read: Callable[[], tuple[Tensor, Tensor | None]]

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """W0, (out, in) whatever the layer's own storage; dequantised where the layer is quantised."""
        return self.read()[0]

    @property
    def bias(self) -> Float[Tensor, "out"] | None:
        """b0, or None."""
        return self.read()[1]


class Delta(nn.Module, ABC):
    """One trainable change of one weight: y = W0 x + b0 becomes y + forward(x, y), or merged (W0 + weight()) x + ....

    A subclass defines parameters in `__init__`, gives them values in `reset`, and says what the change is twice: as a
    matrix (`weight`, and `bias_change` if the bias changes) and applied to activations (`forward`, in factored form).
    The generic layer and tuner do the rest: merging, several adapters, devices, dtypes, saving.

        class ScaleDelta(Delta):
            def __init__(self, base: FrozenLayer, config: ScaleConfig) -> None:
                super().__init__(base, config)
                self.gain = nn.Parameter(torch.empty(base.out_features))

            def reset(self) -> None:
                nn.init.zeros_(self.gain)

            def weight(self) -> Tensor:
                return self.gain[:, None] * self.base.weight

            def bias_change(self) -> Tensor | None:
                return None if self.base.bias is None else self.gain * self.base.bias

            def forward(self, x: Tensor, y: Tensor) -> Tensor:
                return self.gain * y

    The weight of the model is never edited: a method that takes a part of W0 over (W0 = W_res + part, train the part)
    keeps the starting value of that part and returns the difference from it, which is the same function and leaves
    disabling, several adapters and unmerging exact.

    State: parameters are trained; a persistent buffer is frozen and saved; a buffer registered with `persistent=False`
    is frozen and derived again from `base.weight` in `reset` (see `loaded`). The attribute `A` of a method called
    `hydra` is `....hydra_delta.A` in a checkpoint.

    Attributes:
        supports: layer types it can change, of nn.Linear, Conv1D, nn.Embedding and nn.Conv2d; default the first two. A
            convolution is shown to the delta as the linear map of its patches, (batch, positions, in_channels *
            kernel size); an embedding goes through `lookup`.
        fixed_dtype: names of parameters and buffers that keep their dtype when the model or adapter is cast, such as
            places in a grid; default none.
        shown: names of tensors that the layer has as mappings too: `A` of a method called `hydra` as
            `layer.hydra_A["default"]`; default none.
        creates_bias: whether merging may give a bias to a layer that has none; default False, which is an error.
        base: the frozen layer.
    """

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, Conv1D)
    fixed_dtype: ClassVar[tuple[str, ...]] = ()
    shown: ClassVar[tuple[str, ...]] = ()
    creates_bias: bool = False

    def __init__(self, base: FrozenLayer, config: Any) -> None:
        super().__init__()
        self.base = base

    @abstractmethod
    def reset(self) -> None:
        """Give every parameter and buffer its starting value.

        Parameters may lie on the meta device here (a checkpoint follows), so write to them and do not read them;
        buffers and `base.weight` are real. With `config.init_weights=False` the start must not be the identity.
        """

    @abstractmethod
    def weight(self) -> Float[Tensor, "out in"]:
        """The change of W0, in the adapter's dtype."""

    def bias_change(self) -> Float[Tensor, "out"] | None:
        """The change of b0; None (the default) if it never changes."""
        # not called `bias`: whoever walks over modules takes that for a tensor
        return None

    @abstractmethod
    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """The change of the output for the input `x`, whose frozen output is `y` = W0 x + b0 (not to be edited)."""

    def in_one_product(
        self, x: Float[Tensor, "*batch in"], W0: Float[Tensor, "out in"], b0: Float[Tensor, "out"] | None
    ) -> Float[Tensor, "*batch out"] | None:
        """The changed output x (W0 + weight())^T + b0, where that is cheaper than y + forward(x, y); None where not.

        Asked for only where nothing is lost by it: a single adapter, a plain layer in the adapter's full precision.
        """
        return None

    def lookup(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch out"]:
        """The change of the embeddings of `ids`; through the whole matrix unless a method knows a shorter way."""
        return nn.functional.embedding(ids, self.weight().mT)

    @property
    def unmergeable(self) -> str | None:
        """Why the change is not a matrix, so that it cannot be merged; None (the default) if it is one."""
        return None

    def held(self) -> tuple[str, ...]:
        """Names of parameters that are not to be trained at the moment; default none."""
        return ()

    def loaded(self) -> None:
        """Called after a checkpoint was read into this delta, to check it or to derive what was not saved."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the change is computed: that of the first parameter that is cast with the adapter."""
        return next(p.dtype for name, p in self.named_parameters() if name not in self.fixed_dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Delta:
        kept = {name: getattr(self, name).data for name in self.fixed_dtype}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = getattr(self, name)
            if after.dtype != before.dtype:
                after.data = before.to(after.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if any(key.startswith(prefix) for key in state_dict):
            self.loaded()
