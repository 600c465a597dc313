"""LoRe against an independent derivation, scikit-learn's PCA, and its own formulas."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from fullrank.search import Document, LoReReranker, dq_lore

from .conftest import HashEncoder

pytestmark = pytest.mark.filterwarnings("ignore:n_components=.*nothing is dropped")


@pytest.mark.golden("dq-lore", kind="LoRe re-ranking")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_the_derivation(case, dtype):
    spec = case.spec
    known = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in case.tensors.items()}
    X = known["embeddings"]
    for k in spec["k_values"]:
        lore = LoReReranker(k)
        gram = lore.reduced_gram(X.unsqueeze(0))[0]
        torch.testing.assert_close(gram, known[f"gram_k{k}"], rtol=1e-4, atol=1e-4 * float(gram.abs().max()))
        for similarity in ("inner", "rbf"):
            lore = LoReReranker(k, similarity, sigma=spec["sigma"])
            order, scores = lore.rank(X[0], X[1:])
            values = torch.empty_like(scores)
            values[order] = scores
            expected = known[f"{similarity}_k{k}"]
            torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
            _same_order(order, known[f"order_{similarity}_k{k}"], known[f"{_key(similarity)}_k{k}"])
    torch.testing.assert_close(_scores(LoReReranker(None), X), known["centred_inner"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(_scores(LoReReranker(None, center=False), X), known["plain_inner"], rtol=1e-4, atol=1e-3)
    values = known["singular_values"]
    lore = LoReReranker(len(X) - 1)
    lore.transform(X)
    ratio = lore.explained_variance_ratio_
    torch.testing.assert_close(ratio, (values.square() / values.square().sum())[: len(ratio)], rtol=1e-4, atol=1e-8)


def _key(similarity):
    return "inner" if similarity == "inner" else "sqdist"


def _same_order(order, expected, values):
    """The same but for ties of 1e-5."""
    near = 1e-5 * float(values.abs().max())
    for mine, theirs in zip(order.tolist(), expected.tolist(), strict=True):
        assert abs(float(values[mine] - values[theirs])) <= near


def _scores(lore, X):
    order, scores = lore.rank(X[0], X[1:])
    values = torch.empty_like(scores)
    values[order] = scores
    return values


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(3, 12), st.integers(1, 8), st.sampled_from(["inner", "cosine", "rbf"]))
def test_is_principal_component_analysis(M, d, k, similarity):
    X = np.random.default_rng(M * 100 + d).standard_normal((M + 1, d))
    Z = PCA(min(k, M, d), svd_solver="full").fit_transform(X)
    order, scores = LoReReranker(k, similarity, sigma=1.5).rank(X[0], X[1:])
    inner = Z[1:] @ Z[0]
    known = {
        "inner": inner,
        "cosine": inner / np.maximum(np.linalg.norm(Z[1:], axis=1) * np.linalg.norm(Z[0]), 1e-12),
        "rbf": np.exp(-np.square(Z[1:] - Z[0]).sum(1) / (2 * 1.5**2)),
    }[similarity]
    np.testing.assert_allclose(scores, known[order], rtol=1e-8, atol=1e-8)
    assert sorted(order.tolist()) == list(range(M))
    np.testing.assert_allclose(np.abs(LoReReranker(k).transform(X)[:, :1]), np.abs(Z[:, :1]), atol=1e-8)


def test_a_batch_with_gaps_is_every_query_by_itself():
    generator = torch.Generator().manual_seed(0)
    Q, C = torch.randn(3, 6, generator=generator), torch.randn(3, 9, 6, generator=generator)
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4, [False, True] * 4 + [False]])
    for similarity in ("inner", "cosine", "rbf"):
        lore = LoReReranker(3, similarity)
        order, scores = lore.rank(Q, C, mask=mask)
        for number in range(3):
            present = mask[number].nonzero().flatten()
            alone, values = lore.rank(Q[number], C[number][present])
            count = len(present)
            assert order[number][:count].tolist() == present[alone].tolist()
            torch.testing.assert_close(scores[number][:count], values, rtol=1e-4, atol=1e-5)
            assert (scores[number][count:] == -torch.inf).all()
    assert lore.rank(Q, C, k=2)[0].shape == (3, 2)


def test_blocks_of_a_batch_and_gaps_of_one(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    Q, C = torch.randn(7, 5, generator=generator), torch.randn(7, 4, 5, generator=generator)
    mask = torch.ones(7, 4, dtype=torch.bool)
    mask[2, 1:] = False
    mask[3] = False
    lore = LoReReranker(2)
    with pytest.warns(UserWarning, match="says nothing"):
        whole = lore.rank(query_emb=Q, cand_emb=C, mask=mask)
    monkeypatch.setattr(dq_lore, "_SCRATCH", 1)
    for mine, theirs in zip(lore.rank(Q, C, mask=mask.int()), whole, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert whole[1][2].tolist() == pytest.approx([float(Q[2] @ C[2, 0]), *[-np.inf] * 3], rel=1e-5)
    assert whole[1][3].tolist() == [-np.inf] * 4
    C[4, 2] = torch.nan
    with pytest.raises(ValueError, match="candidate 2 of query 4 is not finite; leave it out, or mask it"):
        lore.rank(Q, C)
    mask[4, 2] = False
    assert lore.rank(Q, C, mask=mask)[0][4, -1] == 2


def test_a_narrow_cone_is_opened():
    """Candidates that share a large direction: the plain inner product follows their length, LoRe what differs."""
    generator = np.random.default_rng(0)
    parts = generator.standard_normal((64, 8))
    parts[:8] = target = 3 * generator.standard_normal(8)
    parts[:8] += 0.1 * generator.standard_normal((8, 8))
    cone = np.r_[np.full(56, 50.0), np.zeros(8)]
    rows = cone * generator.uniform(0.99, 1.01, (64, 1)) + np.concatenate([np.zeros((64, 56)), parts], 1)
    query = cone + np.r_[np.zeros(56), target]

    def found(lore):
        return len(set(range(8)) & set(lore.rank(query, rows, 8)[0].tolist()))

    assert found(LoReReranker(None, center=False)) < 4
    assert found(LoReReranker(9, "rbf")) == 8
    with pytest.warns(UserWarning, match="says nothing"):
        order, scores = LoReReranker(4).rank(query, rows[:1])
    assert order.tolist() == [0]
    assert scores[0] == pytest.approx(query @ rows[0])


@pytest.mark.filterwarnings("default:n_components=.*nothing is dropped")
def test_as_many_components_as_candidates_only_centre():
    X = np.random.default_rng(3).standard_normal((9, 30))
    lore = LoReReranker(128)
    with pytest.warns(UserWarning, match="n_components=128 of 8 candidates with 30 numbers: nothing is dropped"):
        order, scores = lore.rank(X[0], X[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lore.rank(X[0], X[1:])  # said once
    centred = X - X.mean(0)
    np.testing.assert_allclose(scores, (centred[1:] @ centred[0])[order])
    assert order.tolist() == (-(centred[1:] @ centred[0])).argsort(kind="stable").tolist()
    apart = X - X[1:].mean(0)
    _, scores = LoReReranker(None, center="candidates").rank(X[0], X[1:])
    np.testing.assert_allclose(scores, np.sort(apart[1:] @ apart[0])[::-1])


def test_the_median_of_distances_is_the_width():
    X = np.random.default_rng(4).standard_normal((7, 3))
    order, scores = LoReReranker(None, "rbf").rank(X[0], X[1:])
    distances = np.linalg.norm(X[:, None] - X[None], axis=-1)
    sigma = np.median(distances[np.triu_indices(7, 1)])
    np.testing.assert_allclose(scores, np.exp(-np.square(distances[0, 1:][order]) / (2 * sigma**2)))


def test_the_median_of_an_even_number_of_distances_lies_between_the_middle_ones():
    X = np.random.default_rng(0).standard_normal((4, 3))
    distances = [np.linalg.norm(X[i] - X[j]) for i in range(4) for j in range(i)]
    order, scores = LoReReranker(None, "rbf").rank(X[0], X[1:])
    squared = np.square(X[1:] - X[0]).sum(1)[order]
    np.testing.assert_allclose(scores, np.exp(-squared / (2 * np.median(distances) ** 2)))


@pytest.mark.parametrize("kind", ["backwards", "read-only", "columns"])
def test_arrays_of_any_layout(kind):
    X = np.random.default_rng(0).standard_normal((9, 5))
    view = {"backwards": X[::-1, ::-1], "read-only": X.copy(), "columns": np.asfortranarray(X)}[kind]
    view.flags.writeable = False
    expected, lore = view.copy(), LoReReranker(2)
    for mine, theirs in zip(lore.rank(view[0], view[1:]), lore.rank(expected[0], expected[1:]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(lore.transform(view), lore.transform(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_encoder_may_give_tensors_of_any_kind(dtype):
    class Tensors:
        def encode(self, texts, /):
            return torch.from_numpy(HashEncoder().encode(texts)).to(dtype).requires_grad_()

    texts = [f"text {number}" for number in range(6)]
    assert LoReReranker(2, encoder=Tensors()).order("q", texts) == LoReReranker(2, encoder=HashEncoder()).order(
        "q", texts
    )


def test_a_kernel_that_underflows_still_orders():
    X = 100 * np.random.default_rng(5).standard_normal((9, 6))
    order, scores = LoReReranker(3, "rbf", sigma=0.5).rank(X[0], X[1:])
    assert not scores.any()
    assert order.tolist() == LoReReranker(3, "rbf").rank(X[0], X[1:])[0].tolist()
    assert order.tolist() != list(range(8))


def test_the_three_similarities_prefer_other_candidates():
    """The inner product likes what lies far out in the query's direction, the kernel what lies near."""
    query, candidates = np.array([1.0, 0]), np.array([[9.0, 3], [1, 0.4], [0.1, 0.01], [-9, -3]])
    first = {
        s: LoReReranker(None, s, center=False).rank(query, candidates, 1)[0][0] for s in ("inner", "cosine", "rbf")
    }
    assert first == {"inner": 0, "cosine": 2, "rbf": 1}


def test_equal_singular_values_at_the_cut_are_told(caplog):
    X = np.concatenate([np.eye(4), -np.eye(4)])
    with caplog.at_level(logging.DEBUG, logger="fullrank.search.dq_lore"):
        LoReReranker(2).rank(X[0], X[1:])
    assert "1 of 1 sets have equal singular values at component 2" in caplog.text


def test_kinds_of_numbers_come_back_as_they_came():
    X = np.random.default_rng(0).standard_normal((5, 4))
    order, scores = LoReReranker(2).rank(X[0].astype(np.float16), X[1:].astype(np.float16))
    assert isinstance(order, np.ndarray)
    assert scores.dtype == np.float32
    half = torch.from_numpy(X).to(torch.bfloat16)
    assert LoReReranker(2).rank(half[0], half[1:])[1].dtype == torch.float32
    assert LoReReranker(2).rank(torch.from_numpy(X)[0], torch.from_numpy(X)[1:])[1].dtype == torch.float64


def test_equal_candidates_keep_their_order_and_zero_vectors_score_nothing():
    X = np.ones((4, 3))
    assert LoReReranker(1).rank(X[0], X[1:])[0].tolist() == [0, 1, 2]
    order, scores = LoReReranker(None, "cosine", center=False).rank(np.ones(3), np.array([[0, 0, 0], [1, 1, 1.0]]))
    assert order.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([1, 0])


def test_texts_are_ordered_by_an_encoder():
    documents = [Document(f"d{number}", f"text {number}") for number in range(6)]
    lore = LoReReranker(2, encoder=HashEncoder())
    ranking = lore.rerank("a query", documents)
    assert [document.id for document in ranking.documents] == [
        f"d{place}" for place in lore.order("a query", [document.searched for document in documents])
    ]
    vectors = HashEncoder().encode(["a query", *(document.searched for document in documents)])
    np.testing.assert_allclose(ranking.scores, lore.rank(vectors[0], vectors[1:])[1])
    assert lore.rerank("a query", []).documents == ()


def test_bad_calls(unchecked):
    X = np.ones((3, 4))
    for options, words in [
        ({"n_components": 0}, "n_components=0 is not accepted; a whole number from 1"),
        ({"n_components": 2.5}, "n_components=2.5"),
        ({"similarity": "dot"}, "similarity='dot' is not known; accepted: inner, cosine, rbf"),
        ({"center": "query"}, "center='query'"),
        ({"sigma": 0}, "sigma=0 is not accepted"),
        ({"sigma": "mean"}, "sigma='mean' is not accepted"),
        ({"n_components": True}, "n_components=True"),
    ]:
        with pytest.raises(ValueError, match=words):
            LoReReranker(**options)
    lore = LoReReranker(1)
    with pytest.raises(ValueError, match=r"query_emb of shape \(4,\) and cand_emb of shape \(3, 5\) do not fit"):
        lore.rank(X[0], np.ones((3, 5)))
    with pytest.raises(ValueError, match="no candidates"):
        lore.rank(X[0], X[:0])
    X[2, 1] = np.nan
    with pytest.raises(ValueError, match="candidate 1 of query 0 is not finite"):
        lore.rank(X[0], X[1:])
    with pytest.raises(ValueError, match="query 0 is not finite"):
        lore.rank(X[2], X[:2])
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        lore.rank(np.ones(4), np.ones((3, 4)), 0)
    with pytest.raises(ValueError, match=r"X has shape \(4,\)"):
        lore.transform(np.ones(4))
    with pytest.raises(ValueError, match=r"row \[2\] of X is not finite"):
        lore.transform(X)
    with pytest.raises(ValueError, match="mask has shape"):
        lore.rank(np.ones(4), np.ones((3, 4)), mask=[True])
    with pytest.raises(ValueError, match=r"LoReReranker\(encoder=...\) is needed"):
        lore.order("a", ["b"])
    with pytest.raises(ValueError, match="query is on cpu, the candidates are on meta: move one of them"):
        lore.rank(torch.ones(4), torch.ones(3, 4, device="meta"))
    with pytest.raises(ValueError, match="squares of the vectors are not finite"):
        lore.rank(torch.ones(4), 1e30 * torch.eye(4))
    with pytest.warns(UserWarning, match="nothing is dropped"):
        LoReReranker(9).rank(np.ones(4), np.eye(4))
