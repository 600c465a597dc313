import csv
import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console
from torch import nn

from fullrank.spectra import HeadReport, MatrixReport, Report, Skipped, Spectrum, analyze


def matrix(name, values, shape):
    return MatrixReport.of(name, "linear", shape, Spectrum(torch.tensor(values), shape))


@pytest.fixture
def report():
    low = torch.logspace(0, -6, 20).tolist()
    flat = [1.0] * 20
    return Report(
        model="tiny [model]",
        architecture="bert",
        matrices=(
            matrix("flat.weight", flat, (20, 200)),
            matrix("low.weight", low, (20, 30)),
            matrix("lower", low, (20, 90)),
        ),
        heads=(HeadReport.of(0, 1, "QK", "layer.0", Spectrum(torch.tensor([2.0, 1.0]), (2, 2))),),
        skipped=(Skipped("bad", "it has nan at (0, 0)"),),
        parameters=6500,
        remarks=("something to know",),
    )


def test_cheapest_first_and_only_what_saves(report):
    assert [matrix.name for matrix in report.cheapest()] == ["lower", "low.weight"]
    assert [matrix.name for matrix in report.cheapest(error=0.2, count=1)] == ["lower"]
    saved = [matrix.truncation(0.1).saved for matrix in report.cheapest(count=None)]
    assert sum(saved) == report.totals["saved"]["0.1"] > 0


def test_an_error_level_that_was_not_measured(report):
    with pytest.raises(ValueError, match=r"error=0.3 was not measured; the levels are 0.01, 0.05, 0.1, 0.2"):
        report.cheapest(error=0.3)


def test_totals(report):
    assert report.totals["matrices"] == 3
    assert report.totals["parameters_in_matrices"] == 4000 + 600 + 1800
    assert report.totals["parameters_elsewhere"] == 100
    shares = [matrix.rank_share * matrix.parameters for matrix in report.matrices]
    assert report.totals["mean_rank_share"] == pytest.approx(sum(shares) / 6400)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    decay=st.floats(0, 3),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_ranks_are_ordered_and_saving_falls_with_accuracy(rows, columns, decay, scale):
    values = scale * torch.arange(1, min(rows, columns) + 1).double().pow(-decay)
    found = MatrixReport.of("w", "linear", (rows, columns), Spectrum(values, (rows, columns), torch.float64))
    assert 1 - 1e-9 <= found.stable_rank <= found.numerical_rank + 1e-9
    assert found.effective_rank <= min(rows, columns) + 1e-9
    assert found.energy_ranks["0.90"] <= found.energy_ranks["0.95"] <= found.energy_ranks["0.99"]
    ranks, saved = zip(*((cut.rank, cut.saved) for cut in found.truncations), strict=True)
    assert list(ranks) == sorted(ranks, reverse=True)
    assert list(saved) == sorted(saved)
    assert all((cut.saved > 0) == (cut.rank <= found.break_even_rank) for cut in found.truncations)


def test_a_long_spectrum_is_thinned_for_plots():
    found = matrix("w", torch.linspace(1, 0.5, 1000).tolist(), (1000, 1000))
    assert 200 < len(found.spectrum) <= 256
    assert found.spectrum[0] == 1


def test_json_gives_the_same_report_back(report, tmp_path):
    assert Report.load(report.save(tmp_path / "report.json")) == report


def test_csv_and_parquet_hold_one_row_a_matrix(report, tmp_path):
    with report.save(tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(report.save(tmp_path / "report.parquet")).to_pylist()
    for place, found in enumerate(report.matrices):
        for row in (rows[place], table[place]):
            assert row["name"] == found.name
            assert float(row["effective_rank"]) == found.effective_rank
            assert int(row["saved_at_error_0.1"]) == found.truncation(0.1).saved
            assert int(row["energy_rank_0.95"]) == found.energy_ranks["0.95"]


def test_a_data_frame_has_the_same_rows(report):
    pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert frame["name"].tolist() == ["flat.weight", "low.weight", "lower"]
    assert frame["effective_rank"].tolist() == [matrix.effective_rank for matrix in report.matrices]


def test_an_empty_report_can_be_written_in_every_format(tmp_path):
    report = analyze(nn.LayerNorm(3))
    for suffix in ("json", "csv", "parquet", "html"):
        assert report.save(tmp_path / f"report.{suffix}").stat().st_size > 0
    assert Report.load(tmp_path / "report.json") == report


def test_another_suffix_is_refused_and_nothing_written(report, tmp_path):
    with pytest.raises(ValueError, match=r"report.xlsx names no format: .*\.json, \.csv, \.parquet or \.html"):
        report.save(tmp_path / "report.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_a_newer_version(report, tmp_path):
    path = dataclasses.replace(report, schema=99).save(tmp_path / "report.json")
    with pytest.raises(ValueError, match="was made by a newer Fullrank: pip install --upgrade fullrank"):
        Report.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1}', '{"schema": "1"}', '{"schema": 1, "matrices": 3}', "\xff"]
)
def test_what_is_no_report(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"report\.json is not a rank report of Fullrank"):
        Report.load(path)


def test_json_is_strict(report, tmp_path):
    text = report.save(tmp_path / "report.json").read_text()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["totals"] == json.loads(json.dumps(report.totals))


def test_the_table_fits_a_terminal_and_shows_names_as_they_are(report):
    long = matrix("encoder.layer.11.attention.output.dense.weight", [1.0] * 20, (20, 128256))
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(dataclasses.replace(report, matrices=(*report.matrices, long)).to_table())
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 100
    assert "tiny [model]" in lines[0]
    assert "lower" in capture.get()
