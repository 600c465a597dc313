"""The study of gradient spectra, stopped in the middle."""

from __future__ import annotations

import time

import pytest

from fullrank import papers
from fullrank.papers import Trial, gradient_spectra


def test_a_study_that_is_stopped_does_not_wait_for_its_other_thread(tmp_path, monkeypatch):
    trained = []

    def train(family, width, seed, steps, device, on_progress):
        if not trained:
            trained.append(family)
            time.sleep(0.1)
            raise KeyboardInterrupt
        for step in range(500):
            on_progress(step, 500, "training")
            time.sleep(0.02)
        trained.append("to the end")
        return {}

    monkeypatch.setattr(gradient_spectra, "_trained", train)
    monkeypatch.setattr(gradient_spectra, "_tokenizer", lambda: None)
    paper = papers.find("gradient-spectra")
    trial = Trial(tuple(claim.id for claim in paper.claims), "smoke", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        paper.run_study(trial)
    assert "to the end" not in trained
