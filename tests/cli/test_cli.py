"""The command: what it prints for people and for programs, and what it says about bad input."""

import csv
import dataclasses
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

import fullrank as package
from fullrank import papers
from fullrank.cli.main import app
from fullrank.papers import Claim, ClaimResult, Result, catalogue, find

VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def kept(folder, slug="rankme", scale="quick", **values) -> Result:
    """A kept result of a paper, with the given measurements."""
    paper = find(slug)
    result = Result(
        slug=slug,
        scale=scale,
        run="2024-02-29T00-00-00-000000Z",
        started="2024-02-29T00:00:00+00:00",
        finished="2024-02-29T00:00:01+00:00",
        seconds=1.0,
        peak_memory=1,
        device="cpu",
        seeds=(0,),
        claims=tuple(ClaimResult.of(claim, values.get(claim.id)) for claim in paper.claims),
    )
    result.save(folder / "results" / slug / scale, {})
    return result


@pytest.fixture
def toy(monkeypatch) -> papers.Paper:
    """RankMe with a study that takes no time."""
    claims = (
        Claim(
            id="ours", says="It is [bold] and large.", source="Table 1", paper_value=3, holds=lambda value: value > 2
        ),
        Claim(id="theirs", says="It scales.", source="abstract", needs="[many] machines"),
    )

    def study(trial):
        for step in trial.track(range(3), "counting"):
            trial.step(str(step), lambda step=step: step)
        trial.measure("ours", 2.5 + len(trial.seeds))
        trial.table("rows", [{"name": "[red]", "value": 1.5}, {"name": "none", "value": None}])
        trial.note("Counted [3].")

    toy = dataclasses.replace(find("rankme"), claims=claims, _study=[study])
    for module in ("fullrank.papers", "fullrank.papers._runs"):
        monkeypatch.setattr(f"{module}.find", lambda slug: toy if slug == "rankme" else find(slug))
    return toy


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_an_example(fullrank, verb):
    shown = fullrank(verb, "--help")
    assert shown.code == 0
    assert re.search(rf"Example: fullrank {verb}\b", shown.out)


def test_the_help_names_every_verb(fullrank):
    shown = fullrank("--help")
    assert shown.code == 0
    assert {"papers", "show", "run", "results", "verify", "analyze", "serve"} <= set(VERBS)
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", shown.out)


def test_the_version(fullrank):
    assert fullrank("--version").out == f"{package.__version__}\n"


@pytest.mark.parametrize("verb", ["show", "run", "results", "verify"])
def test_an_unknown_paper_suggests_the_nearest(fullrank, verb):
    assert fullrank(verb, "rankm").complaint.startswith("there is no paper 'rankm'; did you mean rankme")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("run", "rankme", "--scale", "huge"), "'huge' is not one of 'smoke', 'quick', 'full'"),
        (("show",), "Missing argument"),
        (("papers", "x", "-k", "0"), "Invalid value for '-k' / '--count'"),
        (("serve", "--port", "70000"), "Invalid value for '--port'"),
    ],
)
def test_wrong_usage_is_explained(fullrank, arguments, message):
    shown = fullrank(*arguments)
    assert (shown.code, shown.out) == (2, "")
    assert message in " ".join(shown.err.split())
    assert "Traceback" not in shown.err


def test_papers_are_listed_in_the_order_of_the_page(fullrank):
    rows = fullrank("papers", "--json").json
    assert [row["slug"] for row in rows] == [paper.slug for paper in catalogue()]
    assert rows[0].keys() >= {"title", "authors", "published", "arxiv", "topics", "claims", "state"}
    shown = fullrank("papers").out
    assert all(re.search(rf"^ ?{paper.slug} ", shown, re.MULTILINE) for paper in catalogue())


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_papers_are_found(fullrank, mode):
    found = fullrank("papers", "rank of self-supervised representations", "-k", "3", "--mode", mode, "--json")
    assert len(found.json) == 3
    assert found.json[0]["slug"] == "rankme"
    assert "rankme" in fullrank("papers", "rank of self-supervised representations", "--mode", mode).out


def test_a_paper_is_shown(fullrank, folders):
    paper = find("rankme")
    shown = fullrank("show", "rankme").out
    assert paper.title in shown.replace("\n", " ")
    assert "State: not run" in shown
    assert "fullrank run rankme --scale quick" in shown
    kept(folders, **{"sample-size": 0.01, "eps-inflates": {"1e-7": 0.5, "1e-5": 0.4}})
    assert "State: partly reproduced" in fullrank("show", "2210.02885").out
    details = fullrank("show", "rankme", "--json").json
    assert details["state"] == "partly reproduced"
    verdicts = {claim["id"]: claim["verdict"] for claim in details["claims"]}
    assert (verdicts["sample-size"], verdicts["eps-inflates"]) == ("reproduced", "not reproduced")
    assert details["result"]["scale"] == "quick"


def test_a_paper_that_is_not_built_is_shown_and_not_run(fullrank):
    unbuilt = next(paper for paper in catalogue() if not paper.built)
    shown = fullrank("show", unbuilt.slug).out
    assert "State: not built yet" in shown
    assert "Run it" not in shown
    assert fullrank("run", unbuilt.slug).complaint.startswith(f"'{unbuilt.slug}' is not built yet")


@pytest.mark.usefixtures("toy")
def test_a_run_is_printed_listed_and_kept(fullrank, folders):
    shown = fullrank("run", "rankme", "--scale", "smoke", "--keep")
    assert shown.code == 0
    for part in (
        "It is [bold] and large.",
        "reproduced",
        "3.5",
        "[red]",
        "Note: Counted [3].",
        "1 claims not measured",
    ):
        assert part in shown.out
    [folder] = (folders / "runs" / "rankme").iterdir()
    assert str(folder) in shown.out
    assert (folders / "results" / "rankme" / "smoke" / "result.json").exists()
    listed = fullrank("results", "rankme", "--json").json
    assert [(row["run"], row["status"], row["done"]) for row in listed["runs"]] == [(folder.name, "finished", 3)]
    assert [result["run"] for result in listed["kept"]] == [folder.name]
    assert folder.name[:10] in fullrank("results").out


@pytest.mark.usefixtures("toy")
def test_a_run_as_json_has_nothing_else_on_the_standard_output(fullrank, folders):
    shown = fullrank("run", "rankme", "--json", "--seeds", "3,4", "--runs", folders / "elsewhere")
    assert (shown.json["scale"], shown.json["seeds"]) == ("quick", [3, 4])
    assert (folders / "elsewhere" / "rankme" / shown.json["run"] / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (("--seeds", text), f'--seeds "{text}": different whole numbers from 0 to 4294967295, divided by commas')
            for text in ("1,x", "", "-1", "4294967296", "1,0,1")
        ),
        (("--device", "tpu"), "device='tpu' is not known; accepted: cpu, cuda, cuda:1, mps"),
        (("--device", "cuda:99"), "device='cuda:99' is not there; use --device cpu"),
        (("--runs", "file"), "file"),
    ],
)
def test_bad_options_of_a_run(fullrank, folders, arguments, message):
    (folders / "file").write_text("not a folder")
    assert message in fullrank("run", "rankme", *arguments).complaint


@pytest.mark.parametrize(
    "command",
    [
        ("adapt", "nowhere", "--data", "nothing.tsv", "-o", "file/adapter"),
        ("compress", "nowhere", "--data", "nothing.tsv", "-o", "file/small"),
        ("compare-adapters", "--data", "nothing.tsv", "-o", "file/adapters.svg"),
        ("analyze", "nowhere", "-o", "file/report.html"),
        ("search", "nowhere", "--queries", "nothing.tsv", "-o", "file/run.trec"),
        ("rerank", "nothing.trec", "--queries", "nothing.tsv", "--documents", "nowhere", "-o", "file/run.trec"),
        ("rank", "train", "nothing.svm", "--out", "file/ranker"),
        ("rank", "clicks", "nothing.jsonl", "--model", "dbn", "-o", "file/model.json"),
    ],
    ids=" ".join,
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(fullrank, folders, command):
    (folders / "file").write_text("no folder")
    complaint = fullrank(*command).complaint
    assert complaint == f"{folders / 'file'}: A file is there, which holds no other; name another place"


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize(
    "command",
    [
        ("adapt", "model", "--data", "data", "-o", "out"),
        ("compress", "model", "--data", "data", "-o", "out"),
        ("rank", "train", "data", "-o", "out"),
        ("rank", "text", "data", "-o", "out"),
    ],
    ids=" ".join,
)
def test_a_seed_that_no_generator_takes_is_bad_usage(fullrank, command, seed):
    outcome = fullrank(*command, "--seed", seed)
    assert outcome.code == 2
    assert "Invalid value for '--seed'" in outcome.err


def test_no_runs_yet(fullrank):
    assert fullrank("results").out.strip() == "no runs here yet: fullrank run SLUG"
    assert fullrank("results", "--json").json == {"runs": [], "kept": []}


def test_a_damaged_kept_result_is_named(fullrank, folders):
    kept(folders)
    (folders / "results" / "rankme" / "quick" / "result.json").write_text("{")
    assert "result.json is not a result of Fullrank" in fullrank("show", "rankme").complaint


def test_verify_repeats_and_compares(fullrank, folders, toy):
    assert fullrank("verify", "rankme", "--scale", "smoke").code == 1
    fullrank("run", "rankme", "--scale", "smoke", "--keep")
    same = fullrank("verify", "rankme", "--scale", "smoke", "--json")
    assert (same.code, same.json) == (0, [{"slug": "rankme", "status": "same verdicts", "differences": []}])
    file = folders / "results" / "rankme" / "smoke" / "result.json"
    data = json.loads(file.read_text())
    data["claims"][0]["value"] = 1.0
    file.write_text(json.dumps(data))
    other = fullrank("verify", "rankme", "--scale", "smoke", "--json")
    assert other.code == 1
    assert other.json[0]["status"] == "verdicts differ"
    [difference] = other.json[0]["differences"]
    assert (difference["claim"], difference["kept"], difference["now"]) == ("ours", "not reproduced", "reproduced")
    shown = fullrank("verify", "rankme", "--scale", "smoke")
    assert shown.code == 1
    assert "250.0%" in shown.out


def test_the_table_of_the_readme_is_kept_up(fullrank, folders):
    readme = folders / "README.md"
    readme.write_text("# Title\n<!-- papers:begin -->\nold\n<!-- papers:end -->\nThe end.\n")
    outdated = fullrank("papers", "--readme", readme, "--check")
    assert outdated.code == 1
    assert "is outdated" in outdated.err
    assert "old" in readme.read_text()
    assert fullrank("papers", "--readme", readme).code == 0
    text = readme.read_text()
    assert text.startswith("# Title\n<!-- papers:begin -->\n| paper |")
    assert text.endswith("|\n<!-- papers:end -->\nThe end.\n")
    assert text.count("arxiv.org/abs") == 38
    assert fullrank("papers", "--readme", readme, "--check").code == 0
    readme.write_text("no marks")
    assert "has no place for the table" in fullrank("papers", "--readme", readme).complaint
    assert fullrank("papers", "--readme", folders / "missing.md").complaint.endswith("No such file or directory")


@pytest.fixture
def model(folders):
    """A small file of weights."""
    generator = torch.Generator().manual_seed(0)
    file = folders / "small.safetensors"
    weights = {"thin": torch.randn(16, 8, generator=generator), "one": torch.outer(torch.arange(1.0, 6), torch.ones(4))}
    save_file(weights, file)
    return file


def test_a_model_is_analyzed_into_every_format(fullrank, folders, model):
    outputs = [folders / f"report.{kind}" for kind in ("html", "json", "csv", "parquet")]
    shown = fullrank("analyze", model, *(part for output in outputs for part in ("-o", output)))
    assert shown.code == 0
    assert "thin" in shown.out
    assert "parameters in all" in shown.out
    assert [line for line in shown.err.splitlines() if line] == [f"wrote {output}" for output in outputs]
    html, plain, table, parquet = outputs
    assert "</html>" in html.read_text()
    printed = fullrank("analyze", model, "--json").json
    assert json.loads(plain.read_text()) | {"seconds": 0} == printed | {"seconds": 0}
    with table.open() as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert sorted(names) == ["one", "thin"]
    assert sorted(pyarrow.parquet.read_table(parquet).column("name").to_pylist()) == ["one", "thin"]


def test_a_model_is_compared_with_another(fullrank, folders, model):
    shown = fullrank("analyze", model, "--against", model, "--json", "-o", "comparison.html")
    assert shown.code == 0
    assert isinstance(shown.json, dict)
    assert (folders / "comparison.html").exists()


@pytest.fixture
def unreadable(folders, model):
    """Files and names that are no model, by what is wrong with them."""
    (folders / "truncated.safetensors").write_bytes(model.read_bytes()[:-40])
    (folders / "garbage.safetensors").write_bytes(b"\xff" * 64)
    (folders / "empty.safetensors").write_bytes(b"")
    (folders / "model.bin").write_bytes(pickle.dumps({"weight": 1}))
    (folders / "notes.txt").write_text("words")
    (folders / "folder").mkdir()
    return folders


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated.safetensors", "download it again|truncated"),
        ("garbage.safetensors", "garbage.safetensors"),
        ("empty.safetensors", "truncated"),
        ("model.bin", "pickle"),
        ("notes.txt", "is not a checkpoint Fullrank reads"),
        ("folder", "holds no weights"),
        ("missing/model", "hf download missing/model"),
        ("missing.safetensors", "does not exist"),
    ],
)
def test_what_is_no_model_is_named(fullrank, unreadable, name, message):
    assert re.search(message, fullrank("analyze", name).complaint)


@pytest.mark.parametrize(
    ("output", "message"),
    [("report.docx", r"report.docx.*\.html"), ("small.safetensors/report.html", "small.safetensors")],
)
def test_a_report_that_cannot_be_written(fullrank, model, output, message):
    assert re.search(message, fullrank("analyze", model, "-o", output).complaint)


def test_a_report_that_is_there_is_kept(fullrank, folders, model):
    (folders / "report.json").write_text("mine")
    refused = fullrank("analyze", model, "-o", "report.json")
    assert "report.json: File exists; name another one, or add --overwrite" in refused.complaint
    assert (folders / "report.json").read_text() == "mine"
    assert fullrank("analyze", model, "-o", "report.json", "--overwrite").code == 0
    assert json.loads((folders / "report.json").read_text())
    for command in ("compare-adapters", "compare-compressors"):
        given = [command, "--model", "missing", "--data", "missing.tsv", "-o"]
        assert "report.json: File exists" in fullrank(*given, "report.json").complaint
        assert (
            "new.docx: a name that ends in .svg, .json, .csv or .parquet is accepted"
            in fullrank(*given, "new.docx").complaint
        )


def test_checking_a_table_needs_its_file(fullrank):
    assert "name its file with --readme" in fullrank("papers", "--check").complaint


def test_a_process_that_is_interrupted_leaves_a_run_to_resume(folders):
    command = [sys.executable, "-m", "fullrank", "run", "rankme", "--scale", "smoke", "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, **streams) as process:
        deadline = time.monotonic() + 120
        while not list((folders / "runs").glob("rankme/*/scratch/steps/*.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "stopped; the same command goes on from the last finished step" in " ".join(err.split())
    assert "Traceback" not in err
    [info] = papers.list_runs()
    assert (info.status, info.resumable) == ("cancelled", True)
    assert list((info.folder / "scratch" / "steps").iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf_8_gets_the_words(encoding: str) -> None:
    for asked in (("show", "rankme"), ("papers",)):
        command = [sys.executable, "-m", "fullrank", *asked]
        shown = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert b"RankMe" in shown.stdout
