import numpy as np
import pytest

from deid_diffusion.evaluation.metrics import (
    bootstrap_eer,
    bootstrap_mean,
    cmc,
    det_curve,
    equal_error_rate,
    expose,
    histogram,
    hits,
    score_probes,
    threshold_at_far,
)


def _people(n: int, dim: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32), np.array(
        [f"{i:04}" for i in range(n)]
    )


def test_identical_sets_are_always_found_and_told_apart():
    vectors, ids = _people(50)
    scores = score_probes(vectors, ids, vectors, ids)
    assert hits(scores, 1).mean() == 1.0
    assert cmc(scores).tolist() == [1.0] * 50
    assert scores.genuine == pytest.approx(np.ones(50), abs=1e-5)
    assert equal_error_rate(scores.genuine, scores.impostor) == 0.0
    assert (scores.genuine > threshold_at_far(scores.impostor, 0.01)).all()


def test_random_embeddings_are_found_by_chance_only():
    probes, ids = _people(400, seed=1)
    gallery, _ = _people(400, seed=2)
    scores = score_probes(probes, ids, gallery, ids)
    assert hits(scores, 1).mean() < 0.02
    assert cmc(scores, 200)[[49, 99, 199]] == pytest.approx([0.125, 0.25, 0.5], abs=0.06)
    assert equal_error_rate(scores.genuine, scores.impostor) == pytest.approx(0.5, abs=0.05)
    low, high = bootstrap_mean(hits(scores, 100), ids)
    assert low < 0.25 < high


def test_probes_that_look_all_the_same_are_guesses_not_hits():
    gallery, ids = _people(20)
    scores = score_probes(np.zeros((20, 64)), ids, gallery, ids)
    assert hits(scores, 1) == pytest.approx(np.full(20, 1 / 20))
    assert hits(scores, 5) == pytest.approx(np.full(20, 5 / 20))


def test_the_best_of_several_gallery_photos_counts():
    gallery = np.array([[1.0, 0], [0, 1], [-1, 0]])
    scores = score_probes(np.array([[0.1, 1.0]]), np.array(["a"]), gallery, np.array(["a", "a", "b"]))
    assert scores.people == 2
    assert scores.genuine[0] == pytest.approx(0.995, abs=1e-3)


def test_impostors_are_every_wrong_pair_and_never_the_right_one():
    vectors = np.eye(3, dtype=np.float32)
    ids = np.array(["a", "b", "c"])
    scores = score_probes(vectors, ids, vectors, ids)
    assert scores.impostor.tolist() == [0.0] * 6


def test_blocks_and_samples_do_not_change_the_ranks():
    probes, ids = _people(600, dim=16, seed=3)
    gallery = probes + np.random.default_rng(4).normal(size=probes.shape).astype(np.float32)
    whole = score_probes(probes, ids, gallery, ids)
    sampled = score_probes(probes, ids, gallery, ids, max_impostors=6000)
    expected = probes / np.linalg.norm(probes, axis=1, keepdims=True)
    expected = expected @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T
    assert (whole.greater == (expected > np.diag(expected)[:, None] + 1e-7).sum(axis=1)).mean() > 0.99
    assert (whole.greater == sampled.greater).all()
    assert (len(whole.impostor), len(sampled.impostor)) == (600 * 599, 6000)
    assert sampled.impostor.mean() == pytest.approx(whole.impostor.mean(), abs=0.01)


@pytest.mark.parametrize("gallery_ids", [["a", "c"], ["c", "d"], []])
def test_a_probe_without_its_person_is_refused(gallery_ids):
    with pytest.raises(ValueError, match="needs its person"):
        score_probes(np.eye(2), np.array(["a", "b"]), np.eye(2)[: len(gallery_ids)], np.array(gallery_ids, dtype=str))


def test_exposed_faces_are_hits():
    probes, ids = _people(30, seed=5)
    gallery, _ = _people(30, seed=6)
    exposed = np.arange(30) < 10
    scores = expose(score_probes(probes, ids, gallery, ids), exposed)
    assert (hits(scores, 1)[exposed] == 1).all()
    assert (scores.genuine[exposed] == 1).all()


@pytest.mark.parametrize(("far", "accepted"), [(0.01, 1.0), (0.10, 1.0), (0.001, None)])
def test_a_planted_threshold_is_found(far, accepted):
    impostor = np.sort(np.linspace(0, 0.5, 100))  # nobody else scores above 0.5
    threshold = threshold_at_far(impostor, far)
    if accepted is None:
        assert threshold is None  # 100 pairs cannot say what one in a thousand does
    else:
        assert (impostor > threshold).mean() == pytest.approx(far)
        assert (np.full(7, 0.6) > threshold).mean() == accepted


@pytest.mark.parametrize(
    ("genuine", "impostor", "rate"),
    [
        ([0.9, 0.8], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], 0.5),
        ([0.1, 0.6, 0.7, 0.8], [0.2, 0.3, 0.4, 0.65], 0.25),
    ],
)
def test_equal_error_rate_of_cases_counted_by_hand(genuine, impostor, rate):
    assert equal_error_rate(np.array(genuine), np.array(impostor)) == pytest.approx(
        rate, abs=0.13 if rate == 0.5 else 0
    )


def test_equal_error_rate_of_two_gaussians():
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(2, 1, 20000), np.sort(generator.normal(0, 1, 20000))
    assert equal_error_rate(genuine, impostor) == pytest.approx(0.1587, abs=0.01)  # Phi(-1)


def test_det_curve_falls_and_meets_the_equal_error_rate():
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(2, 1, 5000), np.sort(generator.normal(0, 1, 5000))
    far, frr = det_curve(genuine, impostor)
    assert (np.diff(far) > 0).all()
    assert (np.diff(frr) <= 1e-9).all()
    assert np.interp(0.1587, far, frr) == pytest.approx(0.1587, abs=0.02)


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.0356), (1.0, 0.9644, 1.0)])
def test_no_spread_gives_the_exact_bound_not_certainty(value, low, high):
    got = bootstrap_mean(np.full(102, value), np.arange(102))
    assert got == pytest.approx((low, high), abs=1e-3)


def test_bootstrap_covers_the_truth_about_nineteen_times_in_twenty():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_mean(generator.random(80) < 0.3, np.arange(80), seed=trial, resamples=300)
        covered += low <= 0.3 <= high
    assert 86 <= covered <= 100


def test_bootstrap_draws_people_not_faces():
    people = np.repeat(np.arange(10), 50)  # fifty pictures of a person say no more than one
    values = (people < 3).astype(float)
    low, high = bootstrap_mean(values, people)
    assert high - low > 0.4


def test_bootstrap_of_one_person_has_no_interval():
    assert bootstrap_mean(np.ones(5), np.zeros(5)) == (None, None)
    assert bootstrap_eer(np.ones(5), np.zeros(5), np.zeros(5)) == (None, None)


def test_bootstrap_of_the_equal_error_rate_surrounds_it():
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(1, 1, 100), np.sort(generator.normal(0, 1, 9900))
    low, high = bootstrap_eer(genuine, impostor, np.arange(100))
    assert low < equal_error_rate(genuine, impostor) < high
    assert bootstrap_eer(genuine + 99, impostor, np.arange(100)) == pytest.approx((0, 0.0362), abs=1e-3)


def test_histogram_shares_sum_to_one():
    centres, shares = histogram(np.array([0.1, 0.2, 0.9]), 0.0, 1.0, bins=10)
    assert shares.sum() == pytest.approx(1)
    assert centres[0] == pytest.approx(0.05)
