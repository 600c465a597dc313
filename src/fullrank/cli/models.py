"""Models that the command knows by name."""

from __future__ import annotations

from pathlib import Path


def model_path(source: str) -> tuple[str, str | None]:
    """Path and name of a model; "minilm" is the encoder that comes with the search extra."""
    from fullrank.data import bundled_encoder

    if source == "minilm" and not Path(source).exists():
        return str(bundled_encoder()), "all-MiniLM-L6-v2"
    return source, None
