"""Checkpoints of the authors' RAVLT: their names of parameters to ours."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullrank.nn.axial_rotation import axial_frequencies
from fullrank.nn.ravlt import RAVLT
from fullrank.nn.ravlt_sizes import SIZES

#: Their name -> ours, by pattern; the first that matches counts.
_NAMES = (
    (r"patch_embed\.proj\.(\d+\..+)", r"stem.\1"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.(norm[12])\.norm\.(.+)", r"stages.\1.blocks.\2.\3.\4"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.(attn|ffn)\.(.+)", r"stages.\1.blocks.\2.\3.\4"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.pos\.(.+)", r"stages.\1.blocks.\2.position.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.gamma_([12])", r"stages.\1.blocks.\2.scale\3"),
    (r"proj\.(.+)", r"final_conv.\1"),
    (r"norm\.(.+)", r"final_norm.\1"),
    (r"head\.(.+)", r"head.\1"),
)
_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.(reduction|norm)\.(.+)")
_ANGLE = re.compile(r"layers\.(\d+)\.RoPE\.angle")
_SHOWN = 3  # mismatching shapes in a message


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of the authors' RAVLT under the names of ours; 1 x 1 convolutions become matrices where ours are.

    Args:
        state: their state dict. Rotary frequencies, which ours computes, are checked and left out.

    Raises:
        ValueError: a name that their networks do not have, or other rotary frequencies.
    """
    found = {}
    for name, tensor in state.items():
        if match := _ANGLE.fullmatch(name):
            _check_angle(name, tensor)
        elif match := _DOWNSAMPLE.fullmatch(name):  # theirs closes a stage, ours opens the next
            stage, part, rest = match.groups()
            found[f"stages.{int(stage) + 1}.downsample.{0 if part == 'reduction' else 1}.{rest}"] = tensor
        else:
            ours = _name(name)
            found[ours] = _matrix(ours, tensor)
    return found


def load_official_state_dict(model: RAVLT, source: Mapping[str, Any] | str | Path, *, ema: bool = False) -> None:
    """Load a checkpoint of the authors' code into a network of the same size.

    Args:
        model: the network; it is changed in place.
        source: a `.safetensors` file, a `.pth` file (read without running code from it), or what it holds: a state
            dict, alone or under "model" and "model_ema".
        ema: take the averaged weights, "model_ema".

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no state dict, a key of it is missing or unknown, or the shapes are those of another size.
    """
    state = _state(_read(source) if isinstance(source, str | Path) else source, ema)
    given, expected = from_official(state), model.state_dict()
    wrong = [name for name in given if name in expected and given[name].shape != expected[name].shape]
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(given) - optional)
    unknown = sorted(set(given) - set(expected))
    if wrong or missing or unknown:
        raise ValueError(_mismatch(given, expected, wrong, missing, unknown))
    model.load_state_dict(given, strict=False)


def _read(file: str | Path) -> Mapping[str, Any]:
    if not Path(file).exists():
        raise FileNotFoundError(f"no checkpoint at {file}: download one that https://github.com/qhfan/RALA links")
    if Path(file).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    with torch.serialization.safe_globals([argparse.Namespace]):  # the training options lie beside the weights
        return torch.load(file, map_location="cpu", weights_only=True)


def _state(checkpoint: Mapping[str, Any], ema: bool) -> Mapping[str, Tensor]:
    wanted = "model_ema" if ema else "model"
    state = checkpoint.get(wanted, checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(state, Mapping):
        raise ValueError(
            f"the checkpoint holds a {type(state).__name__}: a state dict is accepted, alone or under 'model' or "
            "'model_ema'"
        )
    if wanted in checkpoint:
        return state
    if ema or "model_ema" in checkpoint:
        held = ", ".join(sorted(checkpoint)[:_SHOWN])
        raise ValueError(f"the checkpoint has no {wanted!r} (it holds {held}, ...): pass ema={not ema}")
    return checkpoint


def _name(name: str) -> str:
    for pattern, ours in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    raise ValueError(f"the checkpoint holds {name!r}, which no RAVLT of the authors has")


def _matrix(name: str, tensor: Tensor) -> Tensor:
    pointwise = re.search(r"(qkvo|attn\.proj|fc[12]|^head)\.weight$", name) is not None
    if re.search(r"\.scale[12]$", name):
        return tensor.flatten()
    return tensor.flatten(1) if pointwise else tensor


def _check_angle(name: str, angle: Tensor) -> None:
    expected = axial_frequencies(2 * len(angle)).repeat_interleave(2)
    if not torch.allclose(angle.float().cpu(), expected, rtol=1e-4, atol=0):
        raise ValueError(
            f"{name} holds other rotary frequencies than 10000^(-m / (d/4 - 1)), which this network computes: the "
            "checkpoint belongs to another variant"
        )


def _mismatch(
    given: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    wrong: list[str],
    missing: list[str],
    unknown: list[str],
) -> str:
    lines = [
        f"{name} is {tuple(given[name].shape)} in the checkpoint and {tuple(expected[name].shape)} here"
        for name in wrong[:_SHOWN]
    ]
    for what, names in (("missing in the checkpoint", missing), ("unknown here", unknown)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{what}: {', '.join(names[:_SHOWN])}{more}")
    return f"the checkpoint does not fit this network: {'; '.join(lines)}. {_advice(given, wrong)}"


def _advice(given: Mapping[str, Tensor], wrong: list[str]) -> str:
    if wrong and all(name.startswith("head.") for name in wrong):
        classes = len(given["head.weight"])
        return f"It has {classes} classes: build the network with num_classes={classes}"
    size = _guess(given)
    return f"It looks like ravlt_{size}" if size else "Its widths are those of no published size"


def _guess(given: Mapping[str, Tensor]) -> str | None:
    """The published size with these widths and depths."""
    blocks = {(int(m[1]), int(m[2])) for name in given if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))}
    depths = tuple(sum(stage == index for stage, _ in blocks) for index in range(4))
    for size, (embed_dims, its_depths, *_) in SIZES.items():
        norms = [given.get(f"stages.{index}.blocks.0.norm1.weight") for index in range(4)]
        if depths == its_depths and all(
            norm is not None and len(norm) == dim for norm, dim in zip(norms, embed_dims, strict=True)
        ):
            return size
    return None
