import numpy as np
import pytest

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.comparison import Known, judge_picture
from deid_diffusion.evaluation.judges import judge_from_spec
from deid_diffusion.evaluation.ledger import MethodLedger, Vectors
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.pictures import Picture
from deid_diffusion.evaluation.reading import Reader
from deid_diffusion.types import Face
from tests.evaluation.conftest import BOX, LANDMARKS, KnowingFinder, portrait

FACE = Face(BOX, LANDMARKS)


@pytest.mark.parametrize("moved", [None, 0.0, 1.0, 12.0])
def test_a_detector_led_astray_does_not_hide_a_face(judge_file, moved):
    class Astray(KnowingFinder):
        def __call__(self, image: np.ndarray) -> list[Face]:
            return [] if moved is None else [Face(BOX + moved, LANDMARKS + moved)]

    reader = Reader(Astray(), (judge_from_spec(f"{judge_file}:64"),), FaceNets(NetOptions()), ArrayCache())
    original, output = Picture(portrait(0), "a"), Picture(portrait(0, photo=1), "b")  # not the same pixels
    own = reader.embed(original, FACE)
    method = MethodLedger("noise", vectors=[Vectors()])
    known = Known(0, [reader.read(original, FACE)], [own])
    judge_picture(method, reader, (original, output), [FACE], known, examples=1)
    (vector,) = method.vectors[0].array()
    cosine = float(vector @ own[0] / np.linalg.norm(vector) / np.linalg.norm(own[0]))
    assert cosine > (0.8 if moved == 1.0 else 0.98)  # near its place the detector is believed
    assert method.faces["found"].tolist() == [moved is not None]
    assert method.faces["untouched"].tolist() == [0.0]
    assert len(method.examples) == 1
