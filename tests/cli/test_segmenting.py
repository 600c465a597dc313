"""Segmenting images from the command."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

POINTS = [(3, 4), (10, 20), (25, 7)]


@pytest.fixture
def picture(folders):
    """A smooth ramp with three bright points, as PNG."""
    values = np.add.outer(np.linspace(20, 60, 30), np.linspace(0, 40, 36))
    for place in POINTS:
        values[place] = 255
    path = folders / "plate.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_robust_pca_finds_the_points(fullrank, picture, folders):
    outcome = fullrank("segment", picture, "--method", "robust-pca", "-o", "masks", "-o", "report.html", "--json")
    assert outcome.code == 0
    (found,) = outcome.json["images"]
    assert (found["height"], found["width"], found["objects"]) == (30, 36, 3)
    assert found["background_effective_rank"] < found["input_effective_rank"]
    mask = np.asarray(Image.open(folders / "masks" / "plate-mask.png"))
    assert sorted(zip(*np.nonzero(mask), strict=True)) == sorted(POINTS)
    assert set(np.unique(mask)) == {0, 255}
    assert re.search(r"wrote .*report.html", outcome.err)
    page = (folders / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert len(links.found) == 4
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert "<script" not in page
    assert "3 connected parts" in page


def test_the_network_and_several_images(fullrank, folders):
    first = folders / "first.tif"
    Image.fromarray(np.full((70, 80), 40_000, np.uint16)).save(first)
    second = folders / "second.jpg"
    Image.new("RGB", (90, 75), (200, 30, 30)).save(second)
    outcome = fullrank("segment", first, second, "--threshold", 0.4, "-o", "found.csv")
    assert outcome.code == 0
    assert "75 x 90" in outcome.out
    lines = (folders / "found.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("file,height,width,object_share")


def test_nothing_is_overwritten_silently(fullrank, picture, folders):
    arguments = ("segment", picture, "--method", "robust-pca", "-o", "report.json", "-o", "masks")
    assert fullrank(*arguments).code == 0
    assert "report.json: File exists; name another one, or add --overwrite" in fullrank(*arguments).complaint
    (folders / "report.json").unlink()
    assert "plate-mask.png: File exists" in fullrank(*arguments).complaint
    assert fullrank(*arguments, "--overwrite").code == 0
    assert json.loads((folders / "report.json").read_text())["method"] == "robust-pca"


def test_bad_files_are_named(fullrank, picture, folders):
    (folders / "words.png").write_text("no picture")
    (folders / "half.png").write_bytes(picture.read_bytes()[:100])
    assert fullrank("segment", "nowhere.png").complaint == "nowhere.png: No such file or directory"
    assert "words.png cannot be read: it is no image; PNG, JPEG" in fullrank("segment", picture, "words.png").complaint
    assert "half.png cannot be read: " in fullrank("segment", "half.png").complaint
    assert "is a directory" in fullrank("segment", folders).complaint.lower()


def test_bad_options(fullrank, picture, folders):
    assert "report.pdf names no format: .html" in fullrank("segment", picture, "-o", "report.pdf").complaint
    assert (
        "threshold=2.0: use a probability between 0 and 1" in fullrank("segment", picture, "--threshold", 2).complaint
    )
    (folders / "other").mkdir()
    twin = folders / "other" / "plate.png"
    twin.write_bytes(picture.read_bytes())
    assert (
        "two images would both be written to plate-mask.png" in fullrank("segment", picture, twin, "-o", "m").complaint
    )
    assert fullrank("segment", picture, "--method", "magic").code == 2
