"""The code in the documentation runs as it stands there, and the commands too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: Commands of Fullrank run within the page's own process, for a process each would take most of the time.
_SHELL = """
import shlex, subprocess, sys

def _sh(block):
    others = []
    for line in block.splitlines(keepends=True):
        if not line.startswith("fullrank "):
            others.append(line)
            continue
        subprocess.run("".join(others), shell=True, check=True)
        others, sys.argv = [], shlex.split(line, comments=True)
        from fullrank.cli import main
        try:
            main()
        except SystemExit as exit:
            assert not exit.code, line
    subprocess.run("".join(others), shell=True, check=True)

"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    blocks = _BLOCK.findall(page.read_text())
    assert any(kind == "python" for kind, _ in blocks)
    script = tmp_path / "page.py"
    script.write_text(_SHELL + "\n".join(code if kind == "python" else f"_sh({code!r})" for kind, code in blocks))
    # A process of its own, as the reader's is: what a page registers with PEFT must not meet what a test registers.
    run = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_readme_links_every_page() -> None:
    readme = (PAGES[0].parents[1] / "README.md").read_text()
    assert [page.name for page in PAGES if f"docs/{page.name}" not in readme.replace("\n", " ")] == []
