import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from fullrank.spectra import Skipped, analyze

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """Fails on tags that do not nest; collects them with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q_lin", "k_lin", "v_lin", "out_lin")})


class Config:
    def to_dict(self):
        return {"model_type": "distilbert", "n_heads": 2}


@pytest.fixture
def report():
    torch.manual_seed(0)
    model = nn.Module()
    model.layer = nn.ModuleList([Layer(), Layer(), Layer()])
    model.config = Config()
    return analyze(model, name="<script>alert(1)</script>")


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(report):
    text = report.to_html()
    tags = Outline(text).tags
    assert {"script", "link", "img", "iframe"}.isdisjoint({tag for tag, _ in tags})
    assert not re.search(r"https?://|url\(|@import", text)
    assert "&lt;script&gt;alert(1)" in text


def test_everything_measured_is_shown(report):
    text = dataclasses.replace(report, skipped=(Skipped("broken.weight", "it has nan"),)).to_html()
    for matrix in report.matrices:
        assert f'<th scope="row">{matrix.name}</th>' in text
        assert f"<td>{matrix.effective_rank:.1f}</td>" in text
    assert text.count("<rect") == len(report.heads) == 12
    assert text.count("<polyline") == 4
    assert "broken.weight" in text


def test_the_page_can_be_read_by_a_screen_reader(report):
    tags = Outline(report.to_html()).tags
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags)
    assert ("html", {"lang": "en"}) in tags


def test_a_fragment_brings_its_style_and_no_document(report):
    text = report.to_html(fragment=True)
    tags = Outline(text).tags
    assert {"html", "head", "body", "main", "h1"}.isdisjoint({tag for tag, _ in tags})
    names = {name for _, attributes in tags for name in (attributes.get("class") or "").split()}
    assert names
    assert all(name.startswith("fr-") for name in names)
    rules = re.sub(r"@media[^{]*{|/\*.*?\*/", "", "".join(re.findall(r"<style>(.*?)</style>", text, re.S)))
    selectors = [part.strip() for rule in re.findall(r"([^{}]+){", rules) for part in rule.split(",")]
    assert all(selector.startswith(".fr-") for selector in selectors)


def test_a_model_that_uses_its_rank_says_so():
    torch.manual_seed(0)
    text = analyze(nn.Linear(16, 16)).to_html()
    Outline(text)
    assert "No matrix gets smaller at 10 % relative error" in text
