"""Sets every test's process up alike, and hands out the pictures that tests share."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Before any test imports torch or a Hugging Face library: they read these once.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
if "PYTEST_XDIST_WORKER" not in os.environ:  # those share one cache: an export of the model takes seconds
    _HOME = tempfile.TemporaryDirectory(prefix="deid-hf-")
    os.environ["HF_HOME"] = _HOME.name
    os.environ["DEID_CACHE"] = str(Path(_HOME.name) / "deid")

# Long tests and dear fixtures go first: at the end they would leave a core idle, or be set up in both processes.
FIRST = ("web/", "test_notebooks.py", "training/test_training.py", "test_cli.py", "test_docs.py", "training/", "hub/",
         "imaging/test_fuzz.py", "test_readme.py", "jobs/", "methods/test_inpaint.py")  # fmt: skip
CHECKOUT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(CHECKOUT / "tests").as_posix()
        return next((number for number, start in enumerate(FIRST) if place.startswith(start)), len(FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(512, 512, 3) uint8 RGB: one face, upright, near the top. NASA, public domain."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image; pip install 'deid-diffusion[test]'")
    return data.astronaut()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photos and judges that is no part of the repository: DEID_SHARED, or `shared` by the checkout."""
    places = [os.environ.get("DEID_SHARED"), CHECKOUT / "shared", CHECKOUT.parent / "shared"]
    for place in places:
        if place and (Path(place) / "faces").is_dir():
            return Path(place)
    pytest.skip("no shared/ folder with photos here; set DEID_SHARED to one")


@pytest.fixture(scope="session")
def weights() -> Path:
    """The shipped weights, or a skip while there are none."""
    folder = CHECKOUT / "weights"
    if not ((folder / "face256" / "model_index.json").exists() and (folder / "face_estimator").is_dir()):
        pytest.skip("weights/face256 and weights/face_estimator are not trained yet")
    return folder


@pytest.fixture(scope="session")
def anonymizer(weights):
    """The shipped anonymizer, loaded once: nobody may change it."""
    from deid_diffusion import FaceAnonymizer

    return FaceAnonymizer.from_pretrained()
