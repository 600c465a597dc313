"""Which models a visitor may analyze."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullrank.hub.allowed import NotAllowed
from fullrank.hub.models import bundled_model, choose, models_in


def test_models_below_an_allowed_folder_are_offered(models: Path) -> None:
    (models / "deep" / "er").mkdir(parents=True)
    (models / "deep" / "er" / "single.safetensors").write_bytes(b"")
    (models / ".hidden").mkdir()
    (models / ".hidden" / "x.safetensors").write_bytes(b"")
    assert [model.name for model in models_in((models,))] == ["deep/er/single.safetensors", "tiny"]


def test_the_bundled_model_needs_no_permission() -> None:
    assert choose("all-MiniLM-L6-v2", ()) == bundled_model()


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_a_path_inside_is_taken(models: Path, kind: str) -> None:
    name = "tiny" if kind == "relative" else str(models / "tiny")
    assert choose(name, (models,)).path == (models / "tiny").resolve()


@pytest.mark.parametrize("name", ["/etc", "../", "tiny/../../secret", "/", "~"])
def test_a_path_outside_is_refused(models: Path, name: str) -> None:
    (models.parent / "secret").mkdir()
    with pytest.raises((NotAllowed, FileNotFoundError)) as caught:
        choose(name, (models,))
    if name != "~":  # not expanded: a file of that name in the allowed folder
        assert isinstance(caught.value, NotAllowed)
        assert "--models" in str(caught.value)


def test_links_to_the_outside_are_refused(models: Path) -> None:
    secret = models.parent / "secret"
    secret.mkdir()
    (secret / "model.safetensors").write_bytes(b"")
    (models / "link").symlink_to(secret)
    with pytest.raises(NotAllowed):
        choose("link", (models,))
    (models / "tiny" / "extra.safetensors").symlink_to(secret / "model.safetensors")
    with pytest.raises(NotAllowed, match="link to outside"):
        choose("tiny", (models,))


def test_a_missing_path_and_no_name_are_told_apart(models: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        choose("nothing-here", (models,))
    with pytest.raises(ValueError, match="no model is named"):
        choose("  ", (models,))
    with pytest.raises(ValueError, match="zero byte"):
        choose("a\0b", (models,))
    with pytest.raises(ValueError, match=r"xxx cannot be looked for: .*; name another path"):
        choose("x" * 5000, (models,))
    with pytest.raises(NotAllowed, match="none so far"):
        choose("tiny", ())
