import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fullrank.search import (
    BM25Retriever,
    ColBERTRetriever,
    DenseRetriever,
    Document,
    LearnedSparseRetriever,
    index_folder,
)
from fullrank.search.colbert_encoder import QueryTokens

from .conftest import HashEncoder

OLD = [Document("old", "rank"), Document("older", "matrix rank")]
NEW = [Document("new", "rank"), Document("newer", "tensor rank"), Document("newest", "rank rank")]


class Lexical:
    def build(self, documents):
        return BM25Retriever("bm25l").build(documents)

    def load(self, folder):
        return BM25Retriever.load(folder)


class Dense:
    def build(self, documents):
        return DenseRetriever(HashEncoder()).build(documents)

    def load(self, folder):
        return DenseRetriever.load(folder, HashEncoder())


class Counts:
    """Weighs a word by how often it stands in a text."""

    def encode_documents(self, texts):
        return [{word: float(text.split().count(word)) for word in text.split()} for text in texts]

    encode_queries = encode_documents


class Sparse:
    def build(self, documents):
        return LearnedSparseRetriever(Counts()).build(documents)

    def load(self, folder):
        return LearnedSparseRetriever.load(folder, Counts())


class WordVectors:
    """One vector for every word."""

    def encode_documents(self, texts):
        return [torch.from_numpy(HashEncoder().encode(text.split())) for text in texts]

    def encode_queries(self, texts):
        vectors = torch.stack(self.encode_documents(texts))
        return QueryTokens(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))


class Late:
    def build(self, documents):
        return ColBERTRetriever(WordVectors()).build(documents)

    def load(self, folder):
        return ColBERTRetriever.load(folder, WordVectors())


@pytest.fixture(params=[Lexical, Dense, Sparse, Late])
def kind(request):
    return request.param()


@pytest.fixture
def folder(kind, tmp_path):
    """An index of the old documents."""
    return kind.build(OLD).save(tmp_path / "index")


def ids(retriever):
    return set(retriever.search("rank")["0"])


def versions(folder):
    return list(folder.glob("index-*"))


def files(folder):
    (version,) = versions(folder)
    return sorted(file for file in version.rglob("*") if file.is_file())


def save_and_die(kind, folder: Path, step: str) -> None:
    """Save the new documents, and be killed before a step of it."""

    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(index_folder, step, die)
    kind.build(NEW).save(folder)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (Lexical, "_flush"),
        (Lexical, "write_json"),
        (Dense, "_flush"),
        (Dense, "write_json"),
        (Sparse, "write_json"),
        (Late, "_flush"),
    ],
    indirect=["kind"],
)
def test_a_kill_while_saving_leaves_the_version_before(kind, folder, step):
    process = multiprocessing.get_context("spawn").Process(target=save_and_die, args=(kind, folder, step))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    assert len(versions(folder)) == 2
    assert ids(kind.load(folder)) == {"old", "older"}
    kind.build(NEW).save(folder)  # the lock died with its holder, and what was left is cleared away
    assert ids(kind.load(folder)) == {"new", "newer", "newest"}
    assert len(versions(folder)) == 1


@pytest.mark.parametrize("step", ["_flush", "write_json"])
def test_a_full_disk_leaves_the_version_before(kind, folder, step, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(folder)
    monkeypatch.setattr(index_folder, step, full)
    with pytest.raises(OSError, match="No space left on device"):
        kind.build(NEW).save(folder)
    assert files(folder) == before
    assert ids(kind.load(folder)) == {"old", "older"}


def test_only_the_newest_version_stays(kind, folder):
    mine = folder / "index-of-mine.txt"
    mine.write_text("kept")
    reader = kind.load(folder)
    kind.build(NEW).save(folder)
    assert versions(folder) != [mine]
    assert sorted(path.name[:6] for path in folder.iterdir()) == [".lock", "index-", "index-", "retrie"]
    assert mine.exists()
    assert ids(kind.load(folder)) == {"new", "newer", "newest"}
    assert ids(reader) == {"old", "older"}, "whoever has it open keeps it"


def test_an_index_is_saved_as_often_as_one_likes(kind, folder, tmp_path):
    first, second = kind.load(folder), kind.load(folder)
    for number in range(3):  # each time the version that was read is deleted
        first.add([Document(f"new{number}", "rank")]).save(folder)
        assert ids(kind.load(folder)) == ids(first)
    assert len(ids(first)) == 5
    second.add(NEW).save(folder)  # of whom the files were deleted by the other
    assert ids(kind.load(folder)) == {"old", "older", "new", "newer", "newest"}
    shutil.rmtree(folder)
    second.save(tmp_path / "elsewhere")
    assert ids(kind.load(tmp_path / "elsewhere")) == {"old", "older", "new", "newer", "newest"}


def test_what_was_saved_is_not_written_again(kind, folder):
    retriever = kind.load(folder)
    before = {file.stat().st_ino for file in files(folder)}
    retriever.save(folder)
    assert {file.stat().st_ino for file in files(folder)} == before
    rebuilt = kind.build(OLD)
    rebuilt.save(folder)
    before = {file.stat().st_ino for file in files(folder)}
    rebuilt.save(folder)
    assert {file.stat().st_ino for file in files(folder)} == before


def test_a_reader_whose_version_is_replaced_meanwhile_reads_the_next(folder, kind, monkeypatch):
    opened = index_folder._newest
    calls = []

    def replaced_after(*args):
        found = opened(*args)
        calls.append(found)
        if len(calls) == 1:
            kind.build(NEW).save(folder)
        return found

    monkeypatch.setattr(index_folder, "_newest", replaced_after)
    assert ids(kind.load(folder)) == {"new", "newer", "newest"}


def damaged(kind, folder):
    """The message of an index that cannot be opened."""
    with pytest.raises(ValueError, match="is damaged") as caught:
        kind.load(folder)
    assert str(folder) in str(caught.value)
    assert "build" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "noise"])
def test_every_damaged_file_is_noticed(kind, folder, damage):
    whole = {file: file.read_bytes() for file in files(folder)}
    for file, content in whole.items():
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(
                {"empty": b"", "half": content[: len(content) // 2], "noise": b"\xff\x00\x9d" * 30}[damage]
            )
        damaged(kind, folder)
        file.write_bytes(content)
    assert ids(kind.load(folder)) == {"old", "older"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b'{"kind": 1}', b"\xff\xfe"])
def test_a_damaged_description(kind, folder, content):
    (folder / "retriever.json").write_bytes(content)
    assert "retriever.json is damaged" in damaged(kind, folder)


def change(folder, **entries):
    about = json.loads((folder / "retriever.json").read_text()) | entries
    (folder / "retriever.json").write_text(
        json.dumps({key: value for key, value in about.items() if value is not None})
    )


def test_a_description_that_does_not_fit_the_files(kind, folder):
    change(folder, segments=2)
    damaged(kind, folder)
    change(folder, segments=None)
    assert "'segments' is missing" in damaged(kind, folder)
    change(folder, segments=1, files="index-elsewhere")
    damaged(kind, folder)
    change(folder, files=None)
    assert "'files' is missing" in damaged(kind, folder)


@pytest.mark.parametrize("options", [{"variant": "okapi"}, {"saturation": 3}, [], None])
def test_options_of_a_lexical_index_that_are_none(tmp_path, options):
    folder = Lexical().build(OLD).save(tmp_path)
    change(folder, options=options)
    damaged(Lexical(), folder)


def test_vectors_of_another_shape(tmp_path):
    folder = Dense().build(OLD).save(tmp_path)
    (version,) = versions(folder)
    file = version / "00000" / "vectors.safetensors"
    for content in ({"vectors": torch.ones(2)}, {"vectors": torch.ones(3, 16)}, {"others": torch.ones(2, 16)}):
        save_file(content, file)
        damaged(Dense(), folder)


def test_vectors_of_a_version_that_knew_no_segments(tmp_path):
    built = Dense().build(OLD)
    folder = built.save(tmp_path)
    (version,) = versions(folder)
    save_file({"vectors": built.encode(["rank", "matrix rank"])}, version / "vectors.safetensors")
    change(folder, segments=None, ids=["old", "older"])
    opened = Dense().load(folder)
    assert opened.search("rank") == built.search("rank")
    opened.add([Document("new", "rank")]).save(folder)
    assert ids(Dense().load(folder)) == {"old", "older", "new"}
    change(folder, ids=["old"])
    damaged(Dense(), folder)


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
def test_all_documents_can_go_and_others_come(kind, folder):
    emptied = kind.load(folder).delete(["old", "older"])
    emptied.save(folder)
    for retriever in (emptied, kind.load(folder)):
        assert len(retriever) == 0
        assert retriever.search(["rank", " "]) == {"0": {}, "1": {}}
        assert ids(retriever.add(NEW)) == {"new", "newer", "newest"}


@pytest.mark.parametrize("kind", [Dense, Sparse, Late], indirect=True)
def test_an_id_twice_is_told_of_before_a_model_reads(kind):
    retriever = kind.build(OLD)
    encoder = retriever.encoder
    for name in ("encode", "encode_documents"):
        if hasattr(encoder, name):
            setattr(encoder, name, None)
    for act in (retriever.build, retriever.add):
        with pytest.raises(ValueError, match="two documents have the id 'x'"):
            act([Document("x", "one"), Document("x", "two")])


def test_a_newer_format_and_another_retriever(kind, folder):
    change(folder, format=99)
    known = index_folder._FORMAT
    with pytest.raises(ValueError, match=f"has format 99, this version of Fullrank reads {known}; build it again"):
        kind.load(folder)
    change(folder, format=known, kind="GraphRetriever")
    with pytest.raises(ValueError, match=r"is an index of GraphRetriever, not of .*; open it with GraphRetriever.load"):
        kind.load(folder)


def test_no_index(kind, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"holds no index \(retriever.json is missing\); make one with"):
            kind.load(folder)


def test_a_folder_that_is_a_file(kind, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        kind.build(OLD).save(tmp_path / "file")
