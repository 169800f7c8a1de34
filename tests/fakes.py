"""Stands in for the anonymizer where what it paints does not matter: reads and writes for real, inverts one box."""

from __future__ import annotations

import numpy as np
from PIL import Image

from deid_diffusion.faces.references import References
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.result import AnonymizedImage
from deid_diffusion.settings import Settings
from deid_diffusion.types import Face, FaceReport, Outcome

# What weights say of their recogniser, see References.rates.
RATES = {"real_far_0.01": 0.78, "real_far_power": 3.6, "real_frr_0.01": 0.03}
FIVE = np.array([[4, 4], [8, 4], [6, 6], [4, 8], [8, 8]])


class Inverter:
    """Takes a FaceAnonymizer's place. `stop_at` raises what it is told to at the picture of that number, from 0."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None):
        self.calls: list[tuple] = []
        self.stop_at, self.error = stop_at, error

    def __call__(self, image, seed=0, boxes=None, settings=None):
        if len(self.calls) == self.stop_at:
            raise self.error
        self.calls.append((image.name, seed, boxes, settings))
        picture = load_picture(image)
        painted, changed = picture.image.copy(), np.zeros(picture.image.shape[:2], bool)
        painted[2:10, 2:10] = 255 - painted[2:10, 2:10]
        changed[2:10, 2:10] = True
        face = FaceReport(Face(np.array([2, 2, 10, 10]), FIVE), Outcome.REPLACED, seed + 1, 0.1, "", {"age": 40.0}, 1)
        return AnonymizedImage(painted, (face,), {"detect": 0.01, "inpaint": 0.02}, changed, picture)

    def check(self, settings):
        pass

    def resolve(self, settings):
        return settings or Settings()

    def embed_references(self, photos):
        return References(np.eye(4, dtype=np.float32)[: len(photos)], RATES)

    def versions(self):
        return {"deid_diffusion": "0", "weights": {"unet": "abc"}}


def photo(path, side: int = 24):
    """Writes a small picture of noise and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path
