"""A hub on a folder of its own, in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from fullrank.hub import Settings, create_app


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder that the operator allows, with one small model."""
    folder = tmp_path / "models"
    (folder / "tiny").mkdir(parents=True)
    save_file({"layer.weight": torch.randn(12, 8)}, folder / "tiny" / "model.safetensors")
    (folder / "tiny" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def client(tmp_path: Path, models: Path) -> Iterator[TestClient]:
    """A client of a hub whose jobs run."""
    with TestClient(create_app(Settings(tmp_path / "runs", (models,))), base_url="http://127.0.0.1") as client:
        yield client
