import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fullrank.compress import FixedRank, LoRCConfig, compress, export_onnx, quantize_lorc

from .models import bert, convolutional, gpt2, texts

METHODS = {"svd": {"rank_rule": FixedRank(4)}, "lorc": {"group_size": 8}, "lr2vq": {}}


def run(file, inputs):
    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()})[0]


@pytest.mark.parametrize(("build", "method"), [(gpt2, "svd"), (bert, "lorc"), (bert, "lr2vq")])
def test_a_compressed_model_computes_the_same_from_its_file(build, method, tmp_path):
    model = compress(build(), method, **METHODS[method]).model.eval()
    batch = {name: value for name, value in texts()[0].items() if name != "labels"}
    file = export_onnx(model, tmp_path / "model.onnx", batch)
    shorter = {name: value[:2, :4] for name, value in batch.items()}
    torch.testing.assert_close(
        torch.from_numpy(run(file, shorter)), model(**shorter).logits.detach(), rtol=0, atol=1e-5
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("activations", ["int8", "int8-asymmetric"])
@pytest.mark.parametrize("rank", [0, 2])
def test_tokens_are_rounded_in_the_file_too(activations, rank, tmp_path):
    config = LoRCConfig(bits=4, group_size=-1, rank=rank, activations=activations)
    model = quantize_lorc(nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)), config)
    model.train()
    x = torch.randn(3, 12)
    file = export_onnx(model, tmp_path / "model.onnx", {"input": x})
    assert model.training
    torch.testing.assert_close(torch.from_numpy(run(file, {"input": x})), model(x).detach(), rtol=0, atol=1e-5)


def test_thin_layers_stay_thin(tmp_path):
    model = compress(convolutional(), "svd", rank_rule=FixedRank(2), target_modules="all").model
    file = export_onnx(model, tmp_path / "small.onnx", {"input": torch.randn(2, 3, 12, 12)})
    stored = sum(
        len(tensor.raw_data) // 4 for tensor in onnx.load(str(file)).graph.initializer if tensor.data_type == 1
    )
    assert stored <= sum(parameter.numel() for parameter in model.parameters())


class Treacherous(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x):
        return 2 * x if torch.compiler.is_exporting() else x


def test_what_differs_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="differs from the model by"):
        export_onnx(Treacherous(), tmp_path / "bad.onnx", {"x": torch.ones(2, 3)})
    assert not list(tmp_path.iterdir())


def test_files_are_not_lost_and_inputs_are_needed(tmp_path):
    (tmp_path / "kept.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_onnx(nn.Linear(2, 2), tmp_path / "kept.onnx", {"input": torch.ones(1, 2)})
    assert (tmp_path / "kept.onnx").read_text() == "mine"
    with pytest.raises(ValueError, match="has no inputs"):
        export_onnx(nn.Linear(2, 2), tmp_path / "new.onnx", {})


def test_a_file_of_that_name_beside_it_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("fullrank.compress.onnx_export._ONE_FILE", 0)  # every model's weights get a file of their own
    model, example = nn.Linear(40, 40), {"input": torch.ones(1, 40)}
    weights = tmp_path / "model.onnx.data"
    weights.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True") as refused:
        export_onnx(model, tmp_path / "model.onnx", example)
    assert refused.value.filename == str(weights)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.onnx.data", "mine")]
    file = export_onnx(model, tmp_path / "model.onnx", example, overwrite=True)
    torch.testing.assert_close(torch.from_numpy(run(file, example)), model(**example).detach())
