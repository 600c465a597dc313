"""Peak memory of `fullrank.analyze` above import, on synthetic sharded checkpoints of 2 GB.

Target: at most three times the largest matrix, as it is stored.

For each layout the checkpoint is written to a temporary folder and analyzed in a child process, which resets the
kernel's high-water mark after the imports and reads it at the end: all resident memory counts, mapped files too. Linux
only.

    python benchmarks/analyze_memory.py [--gigabytes 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from _timing import seconds, show, status

MIB = 1 << 20
SHARD = 512 * MIB
# Name -> dtype, width, inner width, vocabulary; layers as many as fit.
LAYOUTS = {
    "Llama shape, bfloat16": (torch.bfloat16, 2048, 8192, 128256),
    "Llama shape, float32": (torch.float32, 2048, 8192, 32000),
    "square only, bfloat16": (torch.bfloat16, 4096, 4096, 4096),
    "square only, float32": (torch.float32, 4096, 4096, 4096),
}


def shapes(width: int, inner: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of a Llama-like model without end."""
    yield "model.embed_tokens.weight", (vocabulary, width)
    layer = 0
    while True:
        prefix = f"model.layers.{layer}"
        for part in "qkvo":
            yield f"{prefix}.self_attn.{part}_proj.weight", (width, width)
        yield f"{prefix}.mlp.gate_proj.weight", (inner, width)
        yield f"{prefix}.mlp.up_proj.weight", (inner, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, inner)
        layer += 1


def write_checkpoint(folder: Path, dtype: torch.dtype, width: int, inner: int, vocabulary: int, size: int) -> int:
    """Write shards of random weights until `size` bytes are reached; bytes of the largest matrix."""
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    written = pending = largest = 0

    def flush() -> None:
        name = f"model-{len(set(places.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name)
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, shape in shapes(width, inner, vocabulary):
        shard[name] = torch.empty(shape).normal_(0, 0.02, generator=generator).to(dtype)
        bytes_of = shard[name].nbytes
        largest, pending, written = max(largest, bytes_of), pending + bytes_of, written + bytes_of
        if pending >= SHARD or written >= size:
            flush()
            pending = 0
        if written >= size:
            break
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = {"model_type": "llama", "num_attention_heads": width // 128, "num_key_value_heads": width // 128}
    (folder / "config.json").write_text(json.dumps(config))
    return largest


def measure(folder: Path) -> tuple[int, float, int, int]:
    """In a child process: peak above import, seconds, matrices, heads."""
    from fullrank import analyze

    torch.linalg.eigvalsh(torch.eye(64))  # the linear algebra libraries are loaded, as after any first call
    torch.linalg.qr(torch.eye(64) @ torch.eye(64))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    before = status("VmRSS")
    began = time.perf_counter()
    report = analyze(folder)
    return status("VmHWM") - before, time.perf_counter() - began, len(report.matrices), len(report.heads)


def row(name: str, gigabytes: float) -> list[str]:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        largest = write_checkpoint(folder, *LAYOUTS[name], size=int(gigabytes * 1e9))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, took, matrices, heads = pool.apply(measure, (folder,))
    ratio = f"{peak / largest:.2f}x"
    return [name, str(matrices), str(heads), f"{largest / MIB:.0f} MiB", f"{peak / MIB:.0f} MiB", ratio, seconds(took)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of each checkpoint")
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="only this layout; repeatable")
    arguments = parser.parse_args()
    columns = ["layout", "matrices", "heads", "largest matrix", "peak", "ratio", "time"]
    rows = [row(name, arguments.gigabytes) for name in arguments.layout or LAYOUTS]
    show(f"peak memory of analyze above import, {arguments.gigabytes:g} GB checkpoints (target 3x)", columns, rows)


if __name__ == "__main__":
    main()
