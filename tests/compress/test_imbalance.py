import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from fullrank.compress import imbalanced_report, make_imbalanced


def test_scores_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [50, 12, 5])
    scores = generator.random((67, 3)) + np.eye(3)[truth] * 0.5
    probabilities = scores / scores.sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    report = imbalanced_report(truth, probabilities)
    assert report.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert report.accuracy == pytest.approx(metrics.f1_score(truth, predicted, average="micro"))
    assert report.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    for name, score in (
        ("f1", metrics.f1_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
    ):
        assert getattr(report, name) == pytest.approx(score(truth, predicted, average="macro"))
    assert report.auroc == pytest.approx(metrics.roc_auc_score(truth, probabilities, multi_class="ovr"))
    others = [metrics.recall_score(truth != label, predicted != label) for label in range(3)]
    assert report.specificity == pytest.approx(np.mean(others))
    assert report.counts == (50, 12, 5)
    assert report.recalls == pytest.approx(metrics.recall_score(truth, predicted, average=None))
    assert set(report.to_dict()) >= {"accuracy", "auroc", "counts"}


def test_classes_that_do_not_occur_have_no_recall():
    report = imbalanced_report([0, 0, 2], [[0.9, 0.1, 0], [0.2, 0.8, 0], [0, 0.1, 0.9]])
    assert report.recalls == (0.5, None, 1.0)
    assert report.balanced_accuracy == pytest.approx(0.75)
    assert report.auroc == 1
    alone = imbalanced_report([1, 1], [[0.1, 0.9], [0.9, 0.1]])
    assert (alone.auroc, alone.specificity, alone.balanced_accuracy) == (None, 1.0, 0.5)


@settings(max_examples=30, deadline=None)
@given(
    factor=st.floats(1, 50), kind=st.sampled_from(["step", "exp"]), classes=st.integers(2, 8), seed=st.integers(0, 9)
)
def test_classes_become_as_imbalanced_as_asked(factor, kind, classes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes) + 3, 100))
    kept = make_imbalanced(labels, labels, factor, kind, seed)
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(kept, make_imbalanced(labels, labels, factor, kind, seed))
    counts = np.sort(np.unique(labels[kept], return_counts=True)[1])[::-1]
    steps = np.arange(classes) / (classes - 1) if kind == "exp" else np.arange(classes) >= classes // 2
    np.testing.assert_array_equal(counts, np.maximum(1, np.round(100 / factor**steps)))


def test_some_classes_stay_whole():
    labels = np.repeat(np.arange(10), 40)
    counts = np.unique(labels[make_imbalanced(labels, labels, 8, "step", frequent=3)], return_counts=True)[1]
    assert sorted(counts) == [5] * 7 + [40] * 3


@pytest.mark.usefixtures("unchecked")
def test_tensors_with_a_gradient_are_taken():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], requires_grad=True)
    assert imbalanced_report(torch.tensor([0, 1, 1]), scores).recalls == (1.0, 0.5)


def test_bad_calls_are_refused(unchecked):
    for shapes in (([0, 1], [0.5, 0.5]), ([0], [[0.5, 0.5], [0.5, 0.5]]), ([], np.zeros((0, 2)))):
        with pytest.raises(ValueError, match=r"\(samples,\) and \(samples, classes\) are needed"):
            imbalanced_report(*shapes)
    for truth in ([0, 2], [0, -1], [0.0, 1.0]):
        with pytest.raises(ValueError, match="other values than the classes 0 to 1"):
            imbalanced_report(truth, [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="y_prob is not finite"):
        imbalanced_report([0], [[np.nan, 0.5]])
    labels = [0, 0, 1, 1]
    with pytest.raises(ValueError, match="X has 3 samples, y has shape"):
        make_imbalanced([0] * 3, labels, 2)
    for factor in (0.5, float("nan")):
        with pytest.raises(ValueError, match="1 or more is accepted"):
            make_imbalanced(labels, labels, factor)
    with pytest.raises(ValueError, match="kind='log' is not known"):
        make_imbalanced(labels, labels, 2, "log")
    with pytest.raises(ValueError, match="y holds 1 class: two or more"):
        make_imbalanced(labels, [1] * 4, 2)
    with pytest.raises(ValueError, match="frequent=2: 1 to 1 of 2 classes"):
        make_imbalanced(labels, labels, 2, "step", frequent=2)
