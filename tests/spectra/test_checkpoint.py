import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from fullrank.spectra import Checkpoint, CheckpointError, analyze


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        _ = Checkpoint.open(path).tensors
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.ones(4, 3), "b.weight": torch.ones(8, 2)}, path)
    return path


def test_a_file_a_folder_and_an_index_hold_the_same(file):
    index = file.parent / "model.safetensors.index.json"
    (file.parent / "config.json").write_text('{"model_type": "bert"}')
    by_file, by_folder = Checkpoint.open(file), Checkpoint.open(str(file.parent))
    index.write_text(json.dumps({"weight_map": {"a.weight": file.name, "b.weight": file.name}}))
    by_index = Checkpoint.open(index)
    assert by_file.tensors == by_folder.tensors == by_index.tensors
    assert by_file.config == by_folder.config == by_index.config == {"model_type": "bert"}
    assert Checkpoint.open(file.parent).files == (file,)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_parts_are_slices_of_the_whole(tmp_path, dtype):
    matrix = torch.arange(60.0).reshape(10, 6).to(dtype)
    save_file({"m": matrix}, tmp_path / "m.safetensors")
    (stored,) = Checkpoint.open(tmp_path / "m.safetensors").tensors
    assert stored.dtype == dtype
    assert torch.equal(stored.read().float(), matrix.float())
    assert torch.equal(stored.part(0, 3, 7).float(), matrix[3:7].float())
    assert torch.equal(stored.part(1, 2, 6).float(), matrix[:, 2:6].float())


def test_nothing_at_the_path(tmp_path):
    refused(tmp_path / "no" / "such" / "model", "does not exist", "Hugging Face folder")


def test_a_model_name_says_how_to_download_it():
    refused(
        "sentence-transformers/all-MiniLM-L6-v2", "contacts no model hub", "hf download sentence-transformers/all-M"
    )


def test_an_empty_folder_and_one_with_only_a_config(tmp_path):
    refused(tmp_path, "holds no weights", "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "holds no weights")


def test_another_kind_of_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    refused(tmp_path / "model.onnx", "model.onnx", ".safetensors file")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_refused_with_the_lines_that_convert_it(tmp_path, name):
    pickle = tmp_path / name
    pickle.write_bytes(b"\x80\x04malicious")
    refused(pickle, "is a pickle", "weights_only=True", "save_file(", pickle.with_suffix(".safetensors").name)
    refused(tmp_path, "is a pickle")


def test_the_lines_that_convert_a_pickle_do_convert_it(tmp_path, monkeypatch):
    weights = {"a.weight": torch.randn(4, 3).mT, "a.bias": torch.ones(3)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]), {})
    assert [matrix.name for matrix in analyze(tmp_path).matrices] == ["a.weight"]


def test_a_truncated_file_names_the_tensor_and_the_bytes(file):
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-10])
    refused(file, "is truncated", "'b.weight'", f"ends at byte {size}", f"has {size - 10}")


@pytest.mark.parametrize("length", [0, 5])
def test_a_file_shorter_than_its_first_eight_bytes(file, length):
    file.write_bytes(file.read_bytes()[:length])
    refused(file, "is truncated", f"it has {length} bytes")


def test_a_file_cut_in_its_header(file):
    file.write_bytes(file.read_bytes()[:40])
    refused(file, "announce a header of", "32 bytes follow")


@pytest.mark.parametrize(
    "header",
    [b"{not json", b'["a list"]', b'{"a": {"shape": [2, 2]}}', b'{"a": 3}', b"\xff\xfe{}"],
)
def test_a_damaged_header(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(path, "model.safetensors", "damaged", f"bytes 8 to {8 + len(header)}")


def test_a_header_whose_lengths_do_not_fit_its_shapes(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    refused(path, "model.safetensors", "is damaged")


def test_a_missing_shard_is_named(file):
    index = file.parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": file.name, "c.weight": "model-00002.safetensors"}}))
    refused(file.parent, "model-00002.safetensors is not in", "1 missing")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"metadata": {}}'])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    refused(tmp_path, "is not a sharded index")


def test_a_damaged_config(file):
    (file.parent / "config.json").write_text("{")
    refused(file.parent, "config.json is not JSON")
