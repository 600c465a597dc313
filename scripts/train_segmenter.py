"""Train the small RPCANet++ that travels with the package, on steel defects (NEU-Seg), and say how good it is.

python scripts/train_segmenter.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fullrank
from fullrank import data
from fullrank.cli.output import console, progress_bar
from fullrank.nn import SparseObjectSegmenter, mae, pooled_iou_f1, s_measure

_FOLDER = Path(fullrank.__file__).parent / "nn" / "weights" / "neu-seg"


def steel(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey images in [0, 1], and where a defect is."""
    records = data.load("neu-seg", split)
    images = np.stack([record["image"] for record in records]).astype(np.float32) / 255
    return images, np.stack([record["mask"] for record in records]) > 0


def main() -> None:
    """Train, measure on the test images, save."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--epochs", type=int, default=24)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--output", type=Path, default=_FOLDER)
    chosen = arguments.parse_args()
    with progress_bar() as move:
        segmenter = SparseObjectSegmenter(
            channels=8,
            sparse_layers=2,
            merge_layers=1,
            epochs=chosen.epochs,
            lr=3e-3,
            shrink=4,
            random_state=chosen.seed,
            on_progress=move,
        ).fit(*steel("train"))
    images, masks = steel("test")
    probabilities = segmenter.predict_proba(images)
    scores = pooled_iou_f1(probabilities, masks)
    console.print(
        f"IoU {scores.iou:.4f}, F1 {scores.f1:.4f}, S {s_measure(probabilities, masks):.4f}, "
        f"MAE {mae(probabilities, masks):.4f} on {len(images)} test images"
    )
    console.print(str(segmenter.save(chosen.output)))


if __name__ == "__main__":
    main()
