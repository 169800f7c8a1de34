import numpy as np

from deid_diffusion.evaluation.table import MAX_PROBLEMS, Columns, Problems, ReservoirSample, Vectors


def test_columns_and_vectors_give_back_their_rows():
    columns, vectors = Columns(), Vectors()
    for i in range(3):
        columns.add(row=i, found=i > 0)
        vectors.add(np.full(4, i))
    assert columns["row"].tolist() == [0, 1, 2]
    assert columns["found"].tolist() == [0, 1, 1]
    assert columns["nothing"].shape == (0,)
    assert vectors.array().shape == (3, 4)
    assert Vectors().array().shape == (0, 0)


def test_a_sample_is_bounded_and_fair():
    kept = []
    for seed in range(50):
        sample = ReservoirSample(size=10, seed=seed)
        for i in range(100):
            sample.add(np.array([i]))
        assert sample.array().shape == (10, 1)
        kept.extend(sample.array()[:, 0])
    assert 40 < np.mean(kept) < 59  # first and last alike


def test_every_problem_is_counted_and_the_first_are_kept():
    problems = Problems()
    for i in range(MAX_PROBLEMS + 5):
        problems.add("no output", str(i))
    assert problems.counts["no output"] == MAX_PROBLEMS + 5
    assert len(problems.kept) == MAX_PROBLEMS
