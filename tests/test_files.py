import errno
import json
import os
import stat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank._files import require_writable, to_json, write_bytes, write_json, write_text

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def test_missing_folders_are_made_and_nothing_is_left_beside(tmp_path):
    file = tmp_path / "a" / "b" / "c.txt"
    assert write_text(file, "näheres\n") == file
    assert file.read_bytes() == "näheres\n".encode()
    assert list(file.parent.iterdir()) == [file]


def test_a_file_gets_the_rights_that_any_new_file_gets(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"1")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_what_stood_there_survives_a_write_that_fails(tmp_path, monkeypatch, fault, call):
    def fail(*arguments):
        raise fault

    file = write_text(tmp_path / "a.json", "as before")
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(type(fault)) as caught:
            write_text(file, "new")
    assert file.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [file]
    if isinstance(fault, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left on device: '{file}'"


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileExistsError, match="file"):
        write_text(tmp_path / "file" / "below", "text")
    with pytest.raises(NotADirectoryError, match="file/below"):
        write_text(tmp_path / "file" / "below" / "deeper", "text")


@settings(max_examples=60, deadline=None)
@given(value=values)
def test_json_gives_back_what_went_in(value):
    assert json.loads(to_json(value)) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_know_become_null(tmp_path, number):
    file = write_json(tmp_path / "a.json", {"a": [number, 1.5], 2: (number,)})
    assert json.loads(file.read_text()) == {"a": [None, 1.5], "2": [None]}
    assert file.read_text().endswith("}\n")


def test_numbers_of_numpy_are_written_as_numbers():
    written = {
        "rate": np.float32(0.5),
        "seed": np.int64(3),
        "on": np.True_,
        "none": np.float32("nan"),
        "t": torch.tensor(2),
    }
    assert json.loads(to_json(written)) == {"rate": 0.5, "seed": 3, "on": True, "none": None, "t": 2}


@pytest.mark.parametrize("below", ["a", "a/b/c", ""])
def test_a_place_in_a_folder_can_be_written(tmp_path, below):
    require_writable(tmp_path / below)
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_no_other_but_may_be_replaced(tmp_path):
    file = tmp_path / "file"
    file.write_text("1")
    require_writable(file)
    with pytest.raises(NotADirectoryError, match="A file is there, which holds no other") as caught:
        require_writable(file / "a" / "b")
    assert caught.value.filename == str(file)


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda place, how: place != tmp_path)  # root may write everywhere
    with pytest.raises(PermissionError, match="may not be written; name another place") as caught:
        require_writable(tmp_path / "a" / "b")
    assert caught.value.filename == str(tmp_path)
