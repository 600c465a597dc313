"""What a fresh process loads, and how long that takes."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import fullrank

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "numpy", "scipy", "sklearn", "matplotlib", "pyarrow")


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_import_is_light():
    # The processor's time, which a machine that does other things does not lengthen.
    code = (
        "import json, sys, time; start = time.process_time(); import fullrank; "
        "print(json.dumps([time.process_time() - start, list(sys.modules)]))"
    )
    runs = [json.loads(python(code)) for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.3
    assert [name for name in HEAVY if name in runs[0][1]] == []


@pytest.mark.parametrize("arguments", [("--help",), ("papers",), ("show", "rankme"), ("results",)])
def test_verbs_that_do_not_compute_load_no_torch(tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("FULLRANK_RUNS", str(tmp_path))
    code = (
        "import sys; from fullrank.cli import main\n"
        "try: main()\n"
        "except SystemExit as exit: print([exit.code, 'torch' in sys.modules, 'transformers' in sys.modules])"
    )
    assert ast.literal_eval(python(code, *arguments).splitlines()[-1]) == [0, False, False]


def test_every_public_name_exists():
    assert sorted(fullrank.__all__) == dir(fullrank)
    for name in fullrank.__all__:
        assert getattr(fullrank, name) is not None
    with pytest.raises(AttributeError, match="module 'fullrank' has no attribute 'nothing'"):
        fullrank.nothing  # noqa: B018


def required() -> set[tuple[str, str]]:
    """Each module that the code asks for by name, with the extra that it tells the user to install."""
    calls = (
        node
        for file in (ROOT / "src" / "fullrank").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require"
    )
    texts = ([getattr(argument, "value", None) for argument in call.args] for call in calls)
    return {(pair[0].partition(".")[0], pair[1]) for pair in texts if all(isinstance(text, str) for text in pair)}


def test_the_extra_that_is_told_brings_the_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = packages_distributions()
    asked = required()
    assert ("bm25s", "search") in asked
    for module, extra in sorted(asked):
        brought = project["dependencies"] + project["optional-dependencies"][extra]
        names = {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in brought}
        # One that is not installed here, such as timm, has its module's name.
        package = installed.get(module, [module])[0].lower().replace("_", "-")
        assert package in names, f'{module}: pip install "fullrank[{extra}]" does not bring {package}'
