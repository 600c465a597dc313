"""RPCANet and RPCANet++: robust PCA unrolled into a network that segments sparse objects (Wu et al. 2025,
arXiv 2508.04190; the first network: arXiv 2311.00917).

    L(D, B, T) = R(B) + lambda S(T) + mu/2 |D - B - T|^2,  background B, object T, image D

Each of K stages takes one step on every variable, its proximal and gradient operators being small networks:

    B^k = prox_R(D^{k-1} - T^{k-1})                            background approximation
    T^k = X - eps^k G^k(X + C^k(X)),  X = T^{k-1} + D^{k-1} - B^k   object extraction, C a contrast prior
    D^k = M^k(B^k + T^k)                                       image restoration

T^0 = 0 and D^0 is the image. T is never clamped: it is the logit of the object's probability.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fullrank._files import write_bytes
from fullrank.nn.contrast import ContrastLayer, ContrastPrior
from fullrank.nn.convolutional_lstm import ConvolutionalLSTM
from fullrank.nn.large_kernel import LargeKernelConv2d, Method
from fullrank.nn.rpcanet_stages import (
    Image,
    MemoryBackground,
    ObjectExtraction,
    PlainBackground,
    Restoration,
    Stage,
    StageOutput,
)

Network = TypeVar("Network", bound="UnfoldedRPCA")


class RPCANetOutput(NamedTuple):
    """The result of all stages.

    Attributes:
        restored: D of the last stage, (batch, channels, height, width).
        object_logits: T of the last stage, its mean over the channels, (batch, 1, height, width).
        stages: B, T and D of every stage where they were asked for.
    """

    restored: Image
    object_logits: Float[Tensor, "batch 1 height width"]
    stages: tuple[StageOutput, ...] = ()


class UnfoldedRPCA(nn.Module):
    """What RPCANet and RPCANet++ share: stages one after the other, checks of the input, saving and loading.

    Attributes:
        stages: one `Stage` each.
        configuration: the arguments the model was built with.
        gradient_checkpointing: keep only what passes between stages while training, and compute the rest again in the
            backward pass: memory falls nearly by the number of stages. Default False.
    """

    kinds: ClassVar[dict[str, type[UnfoldedRPCA]]] = {}

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.kinds[cls.__name__] = cls

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        super().__init__()
        for name in ("num_stages", "channels", "in_channels"):
            if configuration[name] < 1:
                raise ValueError(f"{name}={configuration[name]}: use at least 1")
        for name in ("background_layers", "sparse_layers", "merge_layers"):
            if configuration.get(name, 0) < 0:
                raise ValueError(f"{name}={configuration[name]}: use 0 or more layers")
        self.configuration = dict(configuration)
        self.gradient_checkpointing = False
        self.stages = nn.ModuleList()

    def forward(self, x: Image, output_stages: bool = False) -> RPCANetOutput:
        """Decompose images.

        Args:
            x: (batch, in_channels, height, width), floating point in [0, 1]; any height and width.
            output_stages: give B, T and D of every stage too.

        Raises:
            ValueError: other channels, no images or pixels, or a batch of one while the contrast prior's batch norms
                are trained.
            TypeError: integers, unless the model was built with `normalize=True`.
        """
        x = self._checked(x)
        stages: list[StageOutput] = []
        for stage in self._steps(x):
            stages = [*stages, stage] if output_stages else [stage]
        last = stages[-1]
        return RPCANetOutput(last.image, _logits(last), tuple(stages) if output_stages else ())

    def object_logits(self, x: Image) -> Float[Tensor, "batch 1 height width"]:
        """Only T of the last stage, without restoring the image there; see `forward`."""
        *_, last = self._steps(self._checked(x), restore_last=False)
        return _logits(last)

    @torch.no_grad()
    def decompose(self, x: Image) -> tuple[StageOutput, ...]:
        """B, T and D of every stage in eval mode, whatever mode the model is in; see `forward`."""
        training = self.training
        self.eval()
        try:
            return self(x, output_stages=True).stages
        finally:
            self.train(training)

    def _steps(self, x: Tensor, restore_last: bool = True) -> Iterator[StageOutput]:
        D, T, memory = x, torch.zeros_like(x), None
        for number, stage in enumerate(self.stages, 1):
            restore = restore_last or number < len(self.stages)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                again = partial(_computed_again, stage)
                step = checkpoint(stage, D, T, memory, restore, use_reentrant=False, context_fn=again)
                B, T, D, memory = step  # pyright: ignore[reportGeneralTypeIssues]
            else:
                B, T, D, memory = stage(D, T, memory, restore)
            yield StageOutput(B, T, D)

    def _checked(self, x: Tensor) -> Tensor:
        channels = self.configuration["in_channels"]
        if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
            colour = channels == 1 and x.ndim == 4 and x.shape[1] > 1
            grey = "; convert colour to grey first: x.mean(1, keepdim=True)" if colour else ""
            raise ValueError(
                f"x has shape {tuple(x.shape)}: (batch, {channels}, height, width), none of them 0, is accepted by a "
                f"model with in_channels={channels}{grey}"
            )
        if x.is_floating_point():
            return x
        if not self.configuration["normalize"]:
            raise TypeError(
                f"x has dtype {x.dtype}: images are floating point in [0, 1]; pass x.float() / 255, or build the model "
                "with normalize=True"
            )
        return x.to(next(self.parameters()).dtype) / 255

    def save(self, path: str | Path) -> Path:
        """Write weights and configuration as one safetensors file, atomically."""
        described = {"model": type(self).__name__, "configuration": json.dumps(self.configuration)}
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        return write_bytes(Path(path), save(state, described))

    @classmethod
    def load(cls: type[Network], path: str | Path) -> Network:
        """Read a file that `save` wrote; `UnfoldedRPCA.load` takes either model.

        Raises:
            ValueError: the file is damaged or holds something else.
        """
        try:
            with safe_open(path, "pt") as file:
                described = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file that can be read: {error}") from error
        kind = cls.kinds.get(described.get("model", ""))
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{path} holds no {cls.__name__}: its metadata name {described.get('model')!r}")
        model = kind(**json.loads(described["configuration"]))
        model.load_state_dict(state)
        return model.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))  # pyright: ignore[reportReturnType]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch does, but a checkpoint with another number of stages is named as such.

        Raises:
            ValueError: it has another number of stages.
        """
        require_stages(state_dict, "stages", len(self.stages))
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier-normal weights; biases stay torch's, batch norms 1 and 0, epsilon 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | LargeKernelConv2d):
                nn.init.xavier_normal_(module.weight)
        for module in self.modules():
            if isinstance(module, ConvolutionalLSTM):
                module.initialise_gates()


class RPCANet(UnfoldedRPCA):
    """RPCANet (arXiv 2311.00917): stages without memory and without contrast.

    Args:
        num_stages: K. Default 6.
        channels: of the features. Default 32.
        background_layers, sparse_layers, merge_layers: convolutions between the first and the last of each operator.
            Defaults 3, 6, 3.
        in_channels: of the image. Default 1, grey.
        normalize: divide integer images by 255 instead of refusing them. Default False.
    """

    def __init__(
        self,
        num_stages: int = 6,
        channels: int = 32,
        background_layers: int = 3,
        sparse_layers: int = 6,
        merge_layers: int = 3,
        in_channels: int = 1,
        normalize: bool = False,
    ) -> None:
        super().__init__(
            {
                "num_stages": num_stages,
                "channels": channels,
                "background_layers": background_layers,
                "sparse_layers": sparse_layers,
                "merge_layers": merge_layers,
                "in_channels": in_channels,
                "normalize": normalize,
            }
        )
        for _ in range(num_stages):
            background = PlainBackground(in_channels, channels, background_layers)
            object = ObjectExtraction(in_channels, channels, sparse_layers, None)
            self.stages.append(Stage(background, object, Restoration(in_channels, channels, merge_layers)))
        self._initialise()


class RPCANetPP(UnfoldedRPCA):
    """RPCANet++ (arXiv 2508.04190): a convolutional LSTM carries background features from stage to stage, and a
    contrast prior moves the place of the object's gradient. Weights are not shared between stages.

    Args:
        num_stages: K. Default 6.
        channels: of the features. Default 32.
        sparse_layers, merge_layers: convolutions between the first and the last of G and M. Defaults 6, 3.
        in_channels: of the image. Default 1, grey.
        contrast_kernel: size of the contrast's surround, odd. Default 17.
        memory: False leaves the LSTM out.
        contrast: False leaves the contrast prior out.
        normalize: divide integer images by 255 instead of refusing them. Default False.
        freeze_squeeze_bn: the batch norms of the contrast's squeeze branch use their running statistics while training
            too, so that a batch of one can be trained. Default False.
        contrast_method: how the surround is convolved, see `LargeKernelConv2d`. Default "auto".
        official_layout: give the first LSTM the five convolutions that the published code allocates and never calls, so
            that a published checkpoint can be written. Default False.
    """

    def __init__(
        self,
        num_stages: int = 6,
        channels: int = 32,
        sparse_layers: int = 6,
        merge_layers: int = 3,
        in_channels: int = 1,
        contrast_kernel: int = 17,
        memory: bool = True,
        contrast: bool = True,
        normalize: bool = False,
        freeze_squeeze_bn: bool = False,
        contrast_method: Method = "auto",
        official_layout: bool = False,
    ) -> None:
        super().__init__(
            {
                "num_stages": num_stages,
                "channels": channels,
                "sparse_layers": sparse_layers,
                "merge_layers": merge_layers,
                "in_channels": in_channels,
                "contrast_kernel": contrast_kernel,
                "memory": memory,
                "contrast": contrast,
                "normalize": normalize,
                "freeze_squeeze_bn": freeze_squeeze_bn,
                "contrast_method": contrast_method,
                "official_layout": official_layout,
            }
        )
        for number in range(num_stages):
            background = MemoryBackground(in_channels, channels, number == 0, memory, official_layout)
            prior = ContrastPrior(in_channels, channels, contrast_kernel, contrast_method) if contrast else None
            object = ObjectExtraction(in_channels, channels, sparse_layers, prior)
            self.stages.append(Stage(background, object, Restoration(in_channels, channels, merge_layers)))
        self._initialise()
        self.train()

    def train(self, mode: bool = True) -> RPCANetPP:
        """Switch between training and eval mode; batch norms that are frozen stay in eval mode."""
        super().train(mode)
        if self.configuration["freeze_squeeze_bn"]:
            for norm in self._squeeze_norms():
                norm.eval()
        return self

    def _checked(self, x: Tensor) -> Tensor:
        x = super()._checked(x)
        if not self.configuration["contrast"]:
            return x
        if x.shape[0] == 1 and any(norm.training for norm in self._squeeze_norms()):
            raise ValueError(
                "a batch of one image in training mode: the contrast's squeeze branch normalises over the batch, so "
                "train on at least 2 images a batch, or build the model with freeze_squeeze_bn=True"
            )
        kernel = self.configuration["contrast_kernel"]
        if min(x.shape[-2:]) < kernel and not torch.compiler.is_compiling():
            warnings.warn(
                f"images of {x.shape[-2]} x {x.shape[-1]} are smaller than the contrast's window of {kernel} x "
                f"{kernel}, which sees mostly padding: use larger images or a smaller contrast_kernel",
                stacklevel=4,
            )
        return x

    def _squeeze_norms(self) -> Iterator[nn.Module]:
        for module in self.modules():
            if isinstance(module, ContrastLayer):
                yield from module.squeeze_norms


def require_stages(state: Mapping[str, Any], prefix: str, asked: int) -> None:
    """Raise if a checkpoint has another number of stages than a model.

    Args:
        state: weights by name, "PREFIX.k. ..." those of stage k.
        prefix: what the stages are called.
        asked: stages of the model.

    Raises:
        ValueError: saying how many there are, and how many were asked for.
    """
    found = {int(match[1]) for name in state if (match := re.match(rf"{prefix}\.(\d+)\.", name))}
    if len(found) != asked:
        raise ValueError(
            f"the checkpoint has {len(found)} stages, the model has {asked}: build it with num_stages={len(found)}"
            if found
            else f"the checkpoint has no stages ({prefix}.0. ...): it belongs to another model"
        )


def _logits(stage: StageOutput) -> Tensor:
    return stage.object.mean(1, keepdim=True)


def _computed_again(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(stage)


@contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: a stage that is computed twice has seen its batch once."""
    norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
