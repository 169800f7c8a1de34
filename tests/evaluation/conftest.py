"""Pictures of people who do not exist: a pattern per person on a plain ground, and a detector that knows the place."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from deid_diffusion.evaluation.warp import ARCFACE
from deid_diffusion.types import Face

SIZE = 112
BOX = np.array([30.0, 30, 80, 80])
LANDMARKS = BOX[:2] + ARCFACE * 50


def portrait(person: int, photo: int = 0, noise: float = 6.0) -> np.ndarray:
    """(112, 112, 3) uint8: the same person has the same pattern, every photo its own noise."""
    pattern = np.random.default_rng(person).integers(40, 216, (6, 6, 3)).astype(np.uint8)
    picture = np.full((SIZE, SIZE, 3), 128.0)
    picture[30:80, 30:80] = cv2.resize(pattern, (50, 50), interpolation=cv2.INTER_CUBIC)
    picture += np.random.default_rng([person, photo]).normal(0, noise, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def save(folder: Path, name: str, picture: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), picture[..., ::-1])


class KnowingDetector:
    """Sees a face wherever the known place is not flat."""

    name, weight_hash, measured, same_as_pipeline = "knowing", "0" * 64, (0, 1, 2, 3, 4), False

    def __call__(self, image: np.ndarray) -> list[Face]:
        scale = image.shape[0] / SIZE
        x0, y0, x1, y1 = (BOX * scale).astype(int)
        return [Face(BOX * scale, LANDMARKS * scale, 1.0)] if image[y0:y1, x0:x1].std() > 15 else []


@pytest.fixture
def detector(monkeypatch) -> KnowingDetector:
    """The only fake: `detector_from_spec` gives the detector that knows where the pattern is."""
    monkeypatch.setattr("deid_diffusion.evaluation.command.detector_from_spec", lambda spec: KnowingDetector())
    return KnowingDetector()


@pytest.fixture(scope="session")
def judge_file(tmp_path_factory) -> Path:
    """A real TorchScript recogniser, small: the face's colours on an 8 x 8 grid, without their mean."""
    torch = pytest.importorskip("torch")

    class Grid(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            grid = torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)
            return grid - grid.mean(dim=1, keepdim=True)

    path = tmp_path_factory.mktemp("judge") / "grid.pt"
    torch.jit.script(Grid()).save(str(path))
    return path


@pytest.fixture
def crowd(tmp_path) -> Path:
    """24 people: originals/, gallery/ (other photos), copies/ (nothing done), blank/, stranger/ (somebody else)."""
    for person in range(24):
        name = f"{person:03}.png"
        original = portrait(person)
        save(tmp_path / "originals", name, original)
        save(tmp_path / "gallery", name, portrait(person, photo=1))
        save(tmp_path / "copies", name, original)
        blank, stranger = original.copy(), original.copy()
        blank[30:80, 30:80] = 0
        stranger[30:80, 30:80] = portrait(1000 + person)[30:80, 30:80]
        save(tmp_path / "blank", name, blank)
        save(tmp_path / "stranger", name, stranger)
    return tmp_path
