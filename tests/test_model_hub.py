"""Whether a hub is in reach, and whether transformers knows the layers of a folder."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from fullrank._model_hub import is_compressed, only_local_files, reason_not_loaded

from .adapt.folders import encoder_folder, labelled_file


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_folder_needs_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was asked"))
    assert only_local_files(tmp_path)


def test_a_hub_that_answers_is_used_and_one_that_does_not_is_left_alone(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not only_local_files("somebody/model")
    assert only_local_files("somebody/model")


def test_the_client_is_left_to_try_behind_a_proxy(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert not only_local_files("somebody/model")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere/at/all", "there is no such folder"),
        ("./nowhere", "there is no such folder"),
        ("empty", "the folder has no config.json"),
        ("model.gguf", "it is a file, and no folder"),
        ("somebody/model", "the hub is out of reach"),
        ("whole", "the hub is out of reach"),
    ],
)
def test_a_place_that_holds_no_model_is_told_as_that(name, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "whole"):
        (tmp_path / folder).mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_text("")
    assert reason_not_loaded(name, OSError("the hub is out of reach\nand more")) == reason


def test_a_missing_path_is_told_in_one_sentence(tmp_path):
    from fullrank.adapt.fine_tuning import load_model
    from fullrank.search.pretrained import Checkpoint
    from fullrank.tasks import load_examples

    missing, examples = str(tmp_path / "missing"), load_examples(labelled_file(tmp_path / "train.tsv"))
    with pytest.raises(ValueError, match=f"model='{missing}' cannot be loaded .*: there is no such folder; a Hugging"):
        load_model(missing, examples)
    with pytest.raises(OSError, match=f"model='{missing}' cannot be loaded: there is no such folder$"):
        _ = Checkpoint(missing, kind="AutoModel").model


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A folder that `fullrank.compress` made."""
    from fullrank.compress import FixedRank, compress_pretrained

    place = tmp_path_factory.mktemp("compressed")
    data = labelled_file(place / "train.tsv")
    compress_pretrained(
        encoder_folder(place / "model"), "svd", str(data), output=place / "small", rank_rule=FixedRank(2)
    )
    _adapter(place / "small", place / "adapter")
    return place / "small"


def _adapter(base, folder):
    from peft import get_peft_model
    from transformers import AutoModel

    from fullrank.adapt import HydraConfig

    get_peft_model(AutoModel.from_pretrained(base), HydraConfig(r=2, target_modules=["first"])).save_pretrained(folder)


# In processes of their own: elsewhere transformers knows the layers as soon as anybody has entered the room.
@pytest.mark.parametrize(
    "load",
    [
        "from fullrank.tasks import load_as_is; model, _ = load_as_is(folder)",
        "from fullrank.tasks import load_examples; from fullrank.adapt.fine_tuning import load_model; "
        "model, _ = load_model(folder, load_examples(folder + '/../train.tsv'))",
        "from fullrank.search.dense import load_encoder; model = load_encoder(folder)",
        "from fullrank.search.pretrained import Checkpoint; model = Checkpoint(folder, kind='AutoModel').model",
        "import fullrank.adapt; from peft import AutoPeftModel; "
        "model = AutoPeftModel.from_pretrained(folder + '/../adapter')",
    ],
    ids=["tasks", "adapt", "dense", "checkpoint", "peft"],
)
def test_a_compressed_folder_is_loaded_with_its_layers_and_not_with_random_ones(load, compressed):
    script = f"""
folder = {str(compressed)!r}
{load}
from fullrank.nn import LowRankLinear
print(sum(isinstance(layer, LowRankLinear) for layer in model.modules()))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 12


def test_only_what_the_configuration_calls_compressed_is(compressed, tmp_path):
    assert is_compressed(compressed)
    assert not is_compressed(compressed.parent / "model")
    assert not is_compressed(tmp_path)
    for config in ("{", "[]", json.dumps({"quantization_config": None})):
        (tmp_path / "config.json").write_text(config)
        assert not is_compressed(tmp_path)


def test_the_hub_tells_how_to_load_an_adapter_of_a_compressed_model(compressed):
    from fullrank.adapt import TrainingSettings, fine_tune
    from fullrank.hub.adaptations import loading_code

    tuned = fine_tune(compressed, str(compressed.parent / "train.tsv"), settings=TrainingSettings(epochs=1))
    code = loading_code(tuned.report)
    assert code.index("import fullrank.compress") < code.index("from_pretrained")
