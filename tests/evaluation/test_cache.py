import numpy as np
import pytest

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.results import EvaluationError


def _never() -> np.ndarray:
    raise AssertionError("asked again for what the cache holds")


@pytest.mark.parametrize("shape", [(3,), (0, 15), (2, 3), (0,)])
def test_arrays_come_back_as_they_were(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with ArrayCache(tmp_path / "c.db") as cache:
        cache.get("key", lambda: array)
    with ArrayCache(tmp_path / "c.db") as cache:
        assert np.array_equal(cache.get("key", _never), array)
        assert cache.get("key", _never).shape == shape


def test_without_a_file_nothing_is_remembered():
    cache = ArrayCache()
    asked = []
    for _ in range(2):
        cache.get("key", lambda: asked.append(1) or np.zeros(1))
    assert len(asked) == 2


def test_two_evaluations_share_a_file(tmp_path):
    with ArrayCache(tmp_path / "c.db") as one, ArrayCache(tmp_path / "c.db") as other:
        one.get("a", lambda: np.zeros(2))
        other.get("b", lambda: np.ones(2))
        assert np.array_equal(one.get("b", _never), np.ones(2))
        assert np.array_equal(other.get("a", _never), np.zeros(2))


def test_a_file_that_is_no_cache_is_left_alone(tmp_path):
    path = tmp_path / "holiday.jpg"
    path.write_bytes(b"a photo, not a database" * 100)
    with pytest.raises(EvaluationError, match=r"holiday\.jpg"):
        ArrayCache(path)
    assert path.read_bytes().startswith(b"a photo")
