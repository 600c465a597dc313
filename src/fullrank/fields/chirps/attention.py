"""The attention of a vision transformer, found by structure: its names differ between versions of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

#: (query, key, value, output) within a block: transformers 5 and most language models; transformers 4.
_NAMES = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
)


class AttentionLayers(NamedTuple):
    """Full module names of the four projections of one attention layer."""

    query: str
    key: str
    value: str
    output: str


def attention_layers(model: nn.Module) -> list[AttentionLayers]:
    """The attention layers of a model, in order; those with an adapter too.

    Raises:
        ValueError: there is none whose query, key, value and output are separate layers; the message lists the linear
            layers that there are.
    """
    names = dict.fromkeys(name for name, _ in model.named_modules())
    found = []
    for query, *others in _NAMES:
        ending = f".{query}"
        blocks = [name.removesuffix(ending) for name in names if name.endswith(ending)]
        layers = [AttentionLayers(*(f"{block}.{part}" for part in (query, *others))) for block in blocks]
        found += [layer for layer in layers if all(name in names for name in layer)]
    if not found:
        linear = sorted({_ending(name) for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise ValueError(
            f"{type(model).__name__} has no attention with separate query and value layers to adapt: name the layers "
            f"with lora_targets; its linear layers are {', '.join(linear) or 'none'}"
        )
    return found


def query_value_targets(model: nn.Module) -> list[str]:
    """Full names of all query and value projections, where the paper puts LoRA."""
    return [name for layer in attention_layers(model) for name in (layer.query, layer.value)]


@contextmanager
def masked_heads(model: nn.Module, heads: Iterable[tuple[int, int]], n_heads: int) -> Iterator[None]:
    """Remove attention heads while the context is open: their part of the output projection's input is zero.

    No weight is touched, and the model is as before afterwards.

    Args:
        model: with separate attention projections.
        heads: (layer, head) of each.
        n_heads: heads of a layer.

    Raises:
        ValueError: there is no such layer or head.
    """
    layers = attention_layers(model)
    chosen: dict[int, list[int]] = {}
    for layer, head in heads:
        if not (0 <= layer < len(layers) and 0 <= head < n_heads):
            raise ValueError(f"head {head} of layer {layer}: the model has {len(layers)} layers of {n_heads} heads")
        chosen.setdefault(layer, []).append(head)

    def removal(which: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def remove(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            kept = inputs[0].new_ones(n_heads)
            kept[which] = 0
            return ((inputs[0].unflatten(-1, (n_heads, -1)) * kept[:, None]).flatten(-2),)

        return remove

    hooks = [
        model.get_submodule(layers[layer].output).register_forward_pre_hook(removal(which))
        for layer, which in chosen.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _ending(name: str) -> str:
    """ "encoder.layer.3.attention.qkv" -> "attention.qkv"."""
    parts = name.split(".")
    numbered = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbered[-1] + 1 :]) if numbered and numbered[-1] + 1 < len(parts) else name
