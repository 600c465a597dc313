"""The pages, their JSON twins, and what is refused."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fullrank import papers

from .reading import read

PAGES = [
    *("/", "/?topic=adapters", "/?runnable=true", "/search", "/search?q=attention", "/runs", "/analyze", "/adapt"),
    *("/compare-adapters", "/papers/rala", "/papers/rankme", "/papers/gradient-spectra", "/papers/loca"),
]


@pytest.mark.parametrize("address", PAGES)
def test_pages_are_well_formed_and_labelled(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert read(answer.text).problems == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_every_link_leads_somewhere(client: TestClient) -> None:
    seen: set[str] = set()
    for address in PAGES:
        seen |= read(client.get(address).text).links
    assert len(seen) > 60
    for address in sorted(seen):
        assert client.get(address).status_code == 200, address


def test_the_feed_has_the_pages_order_dates_and_counts(client: TestClient) -> None:
    text = client.get("/").text
    titles = re.findall(r'<h2><a href="/papers/([^"]+)">', text)
    assert titles == [paper.slug for paper in papers.catalogue()]
    assert "Nov 12, 2024" in text
    assert "3 authors" in text
    assert "1 comment" in text
    twin = client.get("/index.json").json()
    assert [paper["slug"] for paper in twin["papers"]] == titles
    assert client.get("/index.json?topic=adapters").json()["papers"][0]["topics"].count("adapters") == 1


@pytest.mark.parametrize("paper", papers.catalogue(), ids=lambda paper: paper.slug)
def test_every_paper_has_a_page_and_a_twin(client: TestClient, paper: papers.Paper) -> None:
    text = client.get(f"/papers/{paper.slug}").text
    assert text.count('scope="row"') >= len(paper.claims)
    assert ("Run this paper" in text) == paper.built
    assert [claim["id"] for claim in client.get(f"/papers/{paper.slug}.json").json()["claims"]] == [
        claim.id for claim in paper.claims
    ]
    assert read(text).problems == []


def test_search_says_why(client: TestClient) -> None:
    found = client.get("/search.json", params={"q": "fine-tune with few parameters"}).json()["papers"]
    assert "adapters" in found[0]["topics"]
    assert "similar in meaning" in found[0]["why"]
    assert found[0]["reasons"]["cosine"] > 0
    words = client.get("/search", params={"q": "hyperspectral", "mode": "keyword"}).text
    assert "<mark>" in words
    assert "Why this result" in words
    (one, *_) = client.get("/search.json", params={"q": "hyperspectral", "mode": "keyword"}).json()["papers"]
    assert sum(one["reasons"]["words"].values()) == pytest.approx(one["reasons"]["score"])
    assert "/papers/less-vit" in words
    assert client.get("/search.json", params={"q": "   "}).json()["papers"] == []


def test_what_a_visitor_types_is_text(client: TestClient) -> None:
    for mode in ("keyword", "hybrid"):
        text = client.get("/search", params={"q": '<script>alert("x")</script>', "mode": mode}).text
        assert "<script>alert" not in text


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/papers/rankm", 404, "did you mean rankme"),
        ("/nothing", 404, "no page at /nothing"),
        ("/jobs/99", 404, "no job 99"),
        (f"/jobs/{10**20}", 404, f"no job {10**20}"),
        ("/jobs/x", 422, "integer"),
        ("/runs/rankme/2020", 404, "no run"),
        ("/analyses/99", 404, "no job 99"),
        ("/search?mode=magic", 422, "hybrid"),
        ("/analyses", 405, "/analyses takes what a form sends"),
        ("/papers/rankme/results/quick/figures/..%2F..%2Fresult.svg", 404, "no"),
    ],
)
def test_errors_say_what_is_wrong(client: TestClient, address: str, status: int, words: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert words in answer.text
    assert read(answer.text).problems == []
    if "%" not in address:
        path, _, query = address.partition("?")
        twin = client.get(f"{path}.json" + (f"?{query}" if query else ""))
        assert twin.status_code == status
        assert words in twin.json()["error"]


def test_a_paper_that_is_not_built_cannot_be_run(client: TestClient) -> None:
    unbuilt = next(paper for paper in papers.catalogue() if not paper.built)
    answer = client.post(f"/papers/{unbuilt.slug}/runs", data={"scale": "smoke"})
    assert answer.status_code == 404
    assert "not built yet" in answer.text
    assert client.post("/papers/rankme/runs", data={"scale": "huge"}).status_code == 422


def test_another_sites_page_can_start_nothing(client: TestClient) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.post("/papers/rankme/runs", data={"scale": "smoke"}, headers=headers).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.post("/analyses", content=b"x" * 100_000).status_code == 413
    assert client.get("/runs.json").json()["jobs"] == []


def test_models_outside_are_refused(client: TestClient) -> None:
    answer = client.post("/analyses", data={"path": "/etc/passwd"})
    assert answer.status_code == 403
    assert "--models" in answer.text


def test_what_a_visitor_named_stays_as_it_is_in_an_error(client: TestClient) -> None:
    assert client.post("/analyses.json", data={"path": "nothere"}).json()["error"].startswith("nothere is not there")
    assert client.get("/runs/rankme/2020.json").json()["error"] == "rankme has no run '2020'"


def test_a_model_is_analyzed_and_its_report_saved(client: TestClient) -> None:
    job = client.post("/analyses", data={"model": "tiny"}, follow_redirects=False).headers["location"]
    deadline = time.monotonic() + 60
    while client.get(f"{job}.json", follow_redirects=False).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    page = client.get(job)
    assert "Rank report of tiny" in page.text
    assert "layer.weight" in page.text
    assert read(page.text).problems == []
    number = job.rsplit("/", 1)[-1]
    assert client.get(f"/analyses/{number}.json").json()["report"]["matrices"][0]["shape"] == [12, 8]
    for kind, start in (("html", b"<!doctype html>"), ("csv", b"name,"), ("parquet", b"PAR1")):
        saved = client.get(f"/analyses/{number}/report.{kind}")
        assert saved.content.startswith(start)
        assert "rank-report-tiny" in saved.headers["content-disposition"]
    with client.stream("GET", f"/jobs/{number}/events") as events:
        assert '"state": "finished"' in "".join(events.iter_text())


def test_a_damaged_model_fails_with_words(client: TestClient, models: Any) -> None:
    (models / "broken.safetensors").write_bytes(b"123")
    job = client.post("/analyses", data={"model": "broken.safetensors"}, follow_redirects=False).headers["location"]
    deadline = time.monotonic() + 60
    while client.get(f"{job}.json").json()["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "truncated" in client.get(job).text
