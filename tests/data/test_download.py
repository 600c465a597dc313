import multiprocessing
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fullrank.data import ChecksumError, DownloadError, download

from .conftest import BODY, SHA256


def failing(url, destination, **options):
    """The message of a download that fails and leaves nothing behind."""
    before = {path: path.read_bytes() for path in destination.parent.glob("*")}
    with pytest.raises(DownloadError) as caught:
        download(url, destination, **options)
    assert {path: path.read_bytes() for path in destination.parent.glob("*")} == before
    message = str(caught.value)
    assert "\n" not in message
    assert url in message
    assert f"put it at {destination}" in message
    return message


@pytest.mark.parametrize("path", ["whole", "redirect"])
def test_a_file_is_fetched(server, tmp_path, path):
    progress = []
    file = tmp_path / "new" / "folder" / "train.jsonl"
    found = download(
        server.url(path), file, sha256=SHA256, size=len(BODY), on_progress=lambda *counts: progress.append(counts)
    )
    assert found == SHA256
    assert file.read_bytes() == BODY
    assert list(file.parent.iterdir()) == [file]
    assert progress[-1] == (len(BODY), len(BODY))


def test_an_error_of_the_server_is_named(server, tmp_path):
    assert "the server answers 404 Not Found" in failing(server.url("missing"), tmp_path / "a")


def test_a_body_that_ends_early(server, tmp_path):
    assert f"received 40 bytes, expected {len(BODY)}" in failing(server.url("truncated"), tmp_path / "a")


def test_a_server_that_hangs_up(server, tmp_path):
    assert "the transfer broke off" in failing(server.url("hang-up"), tmp_path / "a")


def test_a_server_that_falls_silent(server, tmp_path):
    assert "nothing came for 0.2 s" in failing(server.url("silent"), tmp_path / "a", timeout=0.2)


def test_redirects_in_a_circle(server, tmp_path):
    assert "redirects" in failing(server.url("circle"), tmp_path / "a")


def test_nobody_listens(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/whole"
        assert "there is no connection" in failing(url, tmp_path / "a")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "no address", "http://[half"])
def test_an_address_that_is_none(tmp_path, url):
    failing(url, tmp_path / "a")


def test_a_wrong_checksum_or_size_replaces_nothing(server, tmp_path):
    file = tmp_path / "a"
    file.write_text("as before")
    with pytest.raises(ChecksumError, match=f"it has sha256 {SHA256}, {'0' * 64} is expected"):
        download(server.url("whole"), file, sha256="0" * 64)
    with pytest.raises(ChecksumError, match=f"it has {len(BODY)} bytes, 7 are expected"):
        download(server.url("whole"), file, size=7)
    assert file.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interruption_leaves_nothing(server, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url("whole"), tmp_path / "a", on_progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "a", tmp_path / ("n" * 300)):
        with pytest.raises(DownloadError, match="cannot be written"):
            download(server.url("whole"), place)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DownloadError, match="folder cannot be written"):
        download(server.url("whole"), tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_threads_fetch_the_same_file_at_once(server, tmp_path):
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: download(server.url("whole-slowly"), tmp_path / "a", sha256=SHA256), range(6)))
    assert found == [SHA256] * 6
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BODY]


def fetch(url: str, file: Path) -> None:
    download(url, file, sha256=SHA256)


def test_processes_fetch_the_same_file_at_once(server, tmp_path):
    start = multiprocessing.get_context("spawn").Process
    processes = [start(target=fetch, args=(server.url("whole-slowly"), tmp_path / "a")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BODY]
