"""The generic PEFT layer: a frozen layer and the deltas of every adapter on it."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fullrank.adapt._peft import (
    BaseTunerLayer,
    QuantizationBackend,
    check_adapters_to_merge,
    in_out_features,
)
from fullrank.adapt.autocast import autocast_dtype, without_autocast
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta, FrozenLayer


class DeltaLayer(nn.Module, BaseTunerLayer):
    """A frozen layer with the deltas of its adapters: y = y0 + the sum of the active deltas.

    Every delta reads the same frozen output and the pristine weight, so the order of adapters never matters. Merging
    keeps the pristine weight and bias, and unmerging puts them back bit for bit; a quantised weight is quantised again.

    Attributes:
        delta_type: the method's `Delta`.
        deltas: adapter name -> delta.
    """

    delta_type: ClassVar[type[Delta]]

    def __init__(self, base_layer: nn.Module, backend: QuantizationBackend | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.register_module(self.adapter_layer_names[0], nn.ModuleDict())
        self.quantization_backend = backend
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self.cast_input_dtype_enabled = True  # peft.helpers.disable_input_dtype_casting switches it
        self._pristine: tuple[Tensor, Tensor | None] | None = None
        self.in_features, self.out_features = cast(tuple[int, int], in_out_features(base_layer))

    @property
    def deltas(self) -> nn.ModuleDict:
        """Adapter name -> delta."""
        return cast(nn.ModuleDict, getattr(self, self.adapter_layer_names[0]))

    def update_layer(self, adapter_name: str, config: DeltaConfig, name: str) -> None:
        """Add the delta of an adapter.

        Args:
            adapter_name: the adapter.
            config: its configuration at this layer.
            name: module name of the layer.
        """
        delta = self.delta_type(FrozenLayer(name, *self._matrix_shape(), self._read), config)
        if any(p.dtype == torch.float64 for p in self.get_base_layer().parameters()):
            delta.double()  # before it starts: what it takes from W0 keeps its digits
        self.deltas[adapter_name] = delta
        # Where layer and delta are both on the meta device, there is nothing to start from and nothing to start.
        if not all(p.is_meta for p in (*self.get_base_layer().parameters(), *delta.parameters())):
            with torch.no_grad():
                delta.reset()
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output; `adapter_names` names the adapter of every sample ("__base__": none)."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_forward(x, adapter_names, *args, **kwargs)
        deltas = [] if self.merged else self._present(self.active_adapters)
        if len(deltas) == 1 and (y := self._in_one_product(deltas[0], x)) is not None:
            return y
        return self._changed(x, self.base_layer(x, *args, **kwargs), deltas)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the changes to the frozen weight and bias, in float32 or better, and always to the pristine ones.

        Args:
            safe_merge: check the result, and leave the layer as it was if it is not finite.
            adapter_names: adapters to merge; default the active ones.

        Raises:
            ValueError: the change is not a matrix; the result is not finite and `safe_merge` is set; or the bias
                changes and the layer has none.
            TypeError: the weight is quantised in a way that cannot be written.
        """
        pristine = self._merge(safe_merge, adapter_names)
        if pristine is not None:
            self._pristine = (pristine[0].cpu(), None if pristine[1] is None else pristine[1].cpu())

    def unmerge(self) -> None:
        """Put the pristine weight and bias back."""
        if self._pristine is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        now, _ = self._stored()
        weight, bias = self._pristine
        self.set_base_weight(weight.to(now.device, now.dtype))
        self._set_base_bias(None if bias is None else bias.to(now.device, now.dtype))
        self._pristine = None
        self.merged_adapters = []

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The change of the weight by one adapter, in the layer's own storage."""
        return self._to_stored(self._delta(adapter).weight())

    def get_delta_bias(self, adapter: str) -> Float[Tensor, "out"] | None:
        """The change of the bias by one adapter; None if it changes none."""
        return self._delta(adapter).bias_change()

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The frozen layer alone, with the changes merged into it or without any; called by PEFT."""
        if merge:
            self._merge(safe_merge, adapter_names)
            self._pristine = None  # now, not when the garbage collector finds the cycle of layer and delta
        elif self.merged:
            self.unmerge()
        return self.get_base_layer()

    def __repr__(self) -> str:
        return f"{self.delta_prefix()}.{super().__repr__()}"

    @classmethod
    def delta_prefix(cls) -> str:
        """Name of the method."""
        return cls.adapter_layer_names[0].removesuffix("_delta")

    @abstractmethod
    def _change(self, delta: Delta, x: Tensor, y0: Tensor) -> Tensor:
        """What a delta adds to y0."""

    @abstractmethod
    def _matrix_shape(self) -> tuple[int, int]:
        """(out, in) of the layer as a linear map."""

    @abstractmethod
    def _to_matrix(self, stored: Tensor) -> Tensor:
        """The layer's weight as an (out, in) matrix."""

    @abstractmethod
    def _to_stored(self, matrix: Tensor) -> Tensor:
        """An (out, in) matrix in the layer's own storage."""

    def _in_one_product(self, delta: Delta, x: Tensor) -> Tensor | None:
        """The output by the changed weight, where the delta prefers that and nothing is lost by it."""
        return None

    def _delta(self, adapter: str) -> Delta:
        return cast(Delta, self.deltas[adapter])

    def _present(self, adapters: Iterable[str]) -> list[Delta]:
        return [self._delta(name) for name in adapters if name in self.deltas]

    def _changed(self, x: Tensor, y0: Tensor, deltas: Sequence[Delta]) -> Tensor:
        y = y0
        for delta in deltas:
            # Under autocast the products choose their own dtype; a cast here would only be undone.
            dtype = None if autocast_dtype(x) else delta.dtype
            y = y + self._change(delta, self._cast(x, dtype), self._cast(y0, dtype))
        return y.to(y0.dtype)

    def _cast(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        return x if dtype is None or not x.is_floating_point() else self._cast_input_dtype(x, dtype)

    def _mixed_forward(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        y0 = self.base_layer(x, *args, **kwargs)
        y = y0.clone()
        for name in sorted(set(adapter_names) & set(self.deltas)):
            rows = torch.tensor([row for row, of in enumerate(adapter_names) if of == name], device=x.device)
            y[rows] = self._changed(x[rows], y0[rows], [self._delta(name)])
        return y

    def _merge(self, safe_merge: bool, adapter_names: list[str] | None) -> tuple[Tensor, Tensor | None] | None:
        """Write the merged weight and bias; returns the pristine ones, or None if there is nothing to merge."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.deltas]
        if not names:
            return None
        self._require_mergeable(names)
        pristine = self._pristine or self._stored()
        weight, bias = self._sum(pristine, [*self.merged_adapters, *names], safe_merge)
        self.set_base_weight(weight)
        self._set_base_bias(bias)
        self.merged_adapters = [*self.merged_adapters, *names]
        return pristine

    def _stored(self) -> tuple[Tensor, Tensor | None]:
        bias = getattr(self.get_base_layer(), "bias", None)
        return self.get_base_weight(), None if bias is None else bias.data

    def _read(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self._pristine or self._stored()
        device = self._stored()[0].device if self._pristine else weight.device
        return self._to_matrix(weight).to(device), None if bias is None else bias.to(device)

    @torch.no_grad()
    def _sum(
        self, pristine: tuple[Tensor, Tensor | None], adapters: Sequence[str], safe_merge: bool
    ) -> tuple[Tensor, Tensor | None]:
        now, _ = self._stored()
        accumulate = torch.promote_types(now.dtype, torch.float32)
        weight = pristine[0].to(now.device, accumulate)
        bias = None if pristine[1] is None else pristine[1].to(now.device, accumulate)
        for name in adapters:
            with without_autocast(now):
                change, shift = self.get_delta_weight(name), self.get_delta_bias(name)
            weight = weight + change.to(now.device, accumulate)
            if shift is not None:
                bias = shift.to(now.device, accumulate) if bias is None else bias + shift.to(now.device, accumulate)
            if safe_merge and not (_finite(weight) and (bias is None or _finite(bias))):
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        return weight.to(now.dtype), None if bias is None else bias.to(now.dtype)

    def _require_mergeable(self, names: Sequence[str]) -> None:
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise TypeError(
                f"{self._delta(names[0]).base.name!r} is quantised by {backend.backend_name}, which cannot be merged "
                "into: use unmerged inference"
            )
        for name in names:
            delta = self._delta(name)
            if delta.unmergeable is not None:
                raise ValueError(f"adapter {name!r} cannot be merged into {delta.base.name!r}: {delta.unmergeable}")
            no_bias = getattr(self.get_base_layer(), "bias", None) is None
            if no_bias and delta.bias_change() is not None and not delta.creates_bias:
                raise ValueError(
                    f"adapter {name!r} changes the bias of {delta.base.name!r}, which has none: set create_bias=True "
                    "in the adapter's configuration to give it one, or use the adapter unmerged"
                )

    def _set_base_bias(self, bias: Tensor | None) -> None:
        base = self.get_base_layer()
        now = getattr(base, "bias", None)
        if now is not None and bias is not None:
            now.data = bias
        elif now is not None or bias is not None:
            base.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def _freeze_non_trainable_peft_weights(self, adapter_names: str | Iterable[str] | None = None) -> None:
        names = self.deltas if adapter_names is None else adapter_names
        for delta in self._present([names] if isinstance(names, str) else names):
            for parameter in delta.held():
                delta.get_parameter(parameter).requires_grad_(False)


class DeltaLinear(DeltaLayer):
    """Deltas on a linear layer: nn.Linear, Conv1D (stored in, out), or a quantised linear layer."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether `peft.convert_to_lora` applies; warns with the norm of a bias change, which LoRA cannot carry."""
        for name, delta in self.deltas.items():
            bias = cast(Delta, delta).bias_change()
            if bias is not None and (norm := float(bias.detach().norm())) > 0:
                warnings.warn(
                    f"LoRA carries no bias: the bias change of adapter {name!r} on {cast(Delta, delta).base.name!r}, "
                    f"norm {norm:.3g}, is lost",
                    stacklevel=2,
                )
        return all(cast(Delta, delta).unmergeable is None for delta in self.deltas.values())

    def _in_one_product(self, delta: Delta, x: Tensor) -> Tensor | None:
        base = self.base_layer
        if type(base) is not nn.Linear or _watched(base) or autocast_dtype(x):
            return None
        # In half precision the weight would round a small change away.
        alike = x.dtype == base.weight.dtype == delta.dtype and x.dtype in (torch.float32, torch.float64)
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in base.parameters())
        if not alike or trained:
            return None
        return delta.in_one_product(x, base.weight, base.bias)

    def _change(self, delta: Delta, x: Tensor, y0: Tensor) -> Tensor:
        return delta(x, y0)

    def _matrix_shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def _to_matrix(self, stored: Tensor) -> Tensor:
        return stored.mT if isinstance(self.get_base_layer(), Conv1D) else stored

    def _to_stored(self, matrix: Tensor) -> Tensor:
        return self._to_matrix(matrix)


class DeltaConv2d(DeltaLayer):
    """Deltas on an ungrouped nn.Conv2d, as the linear map of its patches."""

    def _change(self, delta: Delta, x: Tensor, y0: Tensor) -> Tensor:
        conv = self._conv
        if any(conv._reversed_padding_repeated_twice):
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            x = nn.functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
        patches = nn.functional.unfold(x, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
        change = delta(patches.mT, y0.flatten(-2).mT)
        return change.mT.reshape(y0.shape)

    @property
    def _conv(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self.get_base_layer())

    def _matrix_shape(self) -> tuple[int, int]:
        return self._conv.out_channels, self._conv.in_channels * math.prod(self._conv.kernel_size)

    def _to_matrix(self, stored: Tensor) -> Tensor:
        return stored.flatten(1)

    def _to_stored(self, matrix: Tensor) -> Tensor:
        return matrix.unflatten(1, (self._conv.in_channels, *self._conv.kernel_size))


class DeltaEmbedding(DeltaLayer):
    """Deltas on an nn.Embedding, as the linear map of one-hot vectors; a scaled embedding scales them too."""

    def _change(self, delta: Delta, x: Tensor, y0: Tensor) -> Tensor:
        change, scale = delta.lookup(x), self._get_embed_scale()
        return change if scale is None else change * scale.to(change.dtype)

    def _matrix_shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def _to_matrix(self, stored: Tensor) -> Tensor:
        return stored.mT

    def _to_stored(self, matrix: Tensor) -> Tensor:
        return matrix.mT


class AdapterTensors(Mapping[str, Tensor]):
    """One tensor of every delta of a layer, adapter name -> tensor: how PEFT's own layers show theirs.

    Without the adapters whose delta has none, such as a branch of rank zero.
    """

    def __init__(self, deltas: nn.ModuleDict, name: str) -> None:
        self._deltas, self._name = deltas, name

    def __getitem__(self, adapter: str) -> Tensor:
        tensor = getattr(self._deltas[adapter], self._name, None)
        if tensor is None:
            raise KeyError(adapter)
        return tensor

    def __setitem__(self, adapter: str, tensor: Tensor) -> None:
        setattr(self._deltas[adapter], self._name, tensor)

    def __iter__(self) -> Iterator[str]:
        return (adapter for adapter, delta in self._deltas.items() if getattr(delta, self._name, None) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def tensors_called(name: str) -> property:
    """The property of a layer that shows the tensor `name` of its deltas."""
    return property(lambda layer: AdapterTensors(layer.deltas, name), doc=f"Adapter name -> its tensor {name}.")


def _watched(layer: nn.Module) -> bool:
    """Whether somebody looks at, or replaces, what the layer computes."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or "forward" in vars(layer)


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())
