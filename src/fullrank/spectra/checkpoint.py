"""Read the tensors of a checkpoint one at a time, or in parts, from memory-mapped safetensors."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_INDEX = "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # bytes, the format's own limit
_DTYPES = {
    "F64": (torch.float64, 8),
    "F32": (torch.float32, 4),
    "F16": (torch.float16, 2),
    "BF16": (torch.bfloat16, 2),
    "F8_E4M3": (torch.float8_e4m3fn, 1),
    "F8_E5M2": (torch.float8_e5m2, 1),
}


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of a kind that is not read; the message says what to do."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, read when asked.

    Attributes:
        name: its name.
        shape: its shape.
        stored_as: the format's name of its dtype, such as "BF16".
        file: where it is.
    """

    name: str
    shape: tuple[int, ...]
    stored_as: str
    file: Path

    @property
    def dtype(self) -> torch.dtype | None:
        """Its dtype, or None where it is not floating point."""
        return _DTYPES[self.stored_as][0] if self.stored_as in _DTYPES else None

    def read(self) -> Tensor:
        """The tensor in memory.

        Raises:
            CheckpointError: the file cannot be read any more.
        """
        with _opened(self.file) as file:
            return file.get_tensor(self.name)

    def part(self, axis: int, start: int, stop: int) -> Tensor:
        """The entries `start` to `stop` along an axis, 0 or 1; the whole is never in memory.

        The mapping is opened anew for every part: pages that were read would otherwise stay in memory with it.

        Raises:
            CheckpointError: the file cannot be read any more.
        """
        with _opened(self.file) as file:
            stored = file.get_slice(self.name)
            return stored[start:stop] if axis == 0 else stored[:, start:stop]


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors checkpoint: one file, a sharded index, or a Hugging Face folder that holds either.

    Attributes:
        path: as given.
        files: the safetensors files.
        config: the folder's `config.json`, empty where there is none.
    """

    path: Path
    files: tuple[Path, ...]
    config: dict[str, Any]

    @cached_property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """Every tensor, in the files' order; headers only, no data is read.

        Raises:
            CheckpointError: a header is damaged or a file is shorter than its header says.
        """
        return tuple(tensor for file in self.files for tensor in _headers(file))

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Find the checkpoint at a path.

        Args:
            path: a Hugging Face folder, a `.safetensors` file, or a `.safetensors.index.json`.

        Raises:
            CheckpointError: nothing there, no weights in the folder, a pickle, a missing shard, a damaged index.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise CheckpointError(_not_found(path))
        if path.is_dir():
            return cls(path, _weights_of(path), _config(path))
        if path.name.endswith(".safetensors.index.json"):
            return cls(path, _shards(path), _config(path.parent))
        if path.suffix in _PICKLES:
            raise CheckpointError(_pickle(path))
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} is not a checkpoint Fullrank reads: a Hugging Face folder, a .safetensors file or a "
                ".safetensors.index.json is accepted"
            )
        return cls(path, (path,), _config(path.parent))


def _weights_of(folder: Path) -> tuple[Path, ...]:
    if (folder / _INDEX).exists():
        return _shards(folder / _INDEX)
    if (folder / "model.safetensors").exists():
        return (folder / "model.safetensors",)
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if indexes:
        return _shards(indexes[0])
    files = tuple(sorted(folder.glob("*.safetensors")))
    if files:
        return files
    pickles = sorted(file for suffix in _PICKLES for file in folder.glob(f"*{suffix}"))
    if pickles:
        raise CheckpointError(_pickle(pickles[0]))
    raise CheckpointError(f"{folder} holds no weights: model.safetensors or {_INDEX} is needed beside config.json")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        places = dict(json.loads(index.read_text())["weight_map"])
        files = tuple(index.parent / name for name in sorted(set(places.values())))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f'{index} is not a sharded index: JSON with a "weight_map" is expected ({error})'
        ) from error
    if missing := [file.name for file in files if not file.exists()]:
        raise CheckpointError(
            f"{index.name} names {len(files)} shards, but {missing[0]} is not in {index.parent} "
            f"({len(missing)} missing): download the missing files again"
        )
    return files


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error})") from error
    return config if isinstance(config, dict) else {}


def _headers(file: Path) -> list[StoredTensor]:
    """The tensors a safetensors file says it holds, checked against its length."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise CheckpointError(f"{file} is truncated: byte 0 to 8 hold the header's length, but it has {size} bytes")
        length = struct.unpack("<Q", prefix)[0]
        if length > min(size - 8, _HEADER_LIMIT):
            raise CheckpointError(
                f"{file} is truncated or no safetensors file: its first 8 bytes announce a header of {length} bytes, "
                f"but {size - 8} bytes follow; download it again"
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        ends = {name: 8 + length + int(about["data_offsets"][1]) for name, about in header.items()}
        tensors = [StoredTensor(name, tuple(about["shape"]), about["dtype"], file) for name, about in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{file} has a damaged header at bytes 8 to {8 + length} ({error}); download it again"
        ) from error
    for name, end in ends.items():
        if end > size:
            raise CheckpointError(
                f"{file} is truncated: tensor {name!r} ends at byte {end}, but the file has {size}; download it again"
            )
    with _opened(file):  # safetensors' own checks: dtypes against lengths, gaps, overlaps
        return tensors


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except Exception as error:  # safetensors raises its own types, none of them public
        raise CheckpointError(f"{file} is damaged ({error}); download it again") from error


def _not_found(path: Path) -> str:
    text = str(path)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return (
            f"{text!r} is not a local folder, and Fullrank contacts no model hub by itself; download it first with "
            f"`hf download {text} --local-dir {path.name}` and give the folder {path.name}"
        )
    return f"{text} does not exist; give a Hugging Face folder or a .safetensors file"


def _pickle(file: Path) -> str:
    target = file.with_suffix(".safetensors").name
    return (
        f"{file} is a pickle, which can run any code when it is opened, so it is refused. "
        "If you trust it, convert it:\n"
        "  import torch; from safetensors.torch import save_file\n"
        f'  state = torch.load("{file.name}", map_location="cpu", weights_only=True)\n'
        f'  save_file({{k: v.contiguous() for k, v in state.items()}}, "{target}")'
    )
