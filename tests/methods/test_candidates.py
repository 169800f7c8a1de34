"""What was asked for costs nothing; each thing that was not done costs more."""

import numpy as np
import pytest

from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.faces.estimator import FaceAnalysis
from deid_diffusion.faces.face_shape import Placement
from deid_diffusion.methods.candidates import (
    COSTS,
    EYE_COST,
    EYE_WHITE,
    FURROW,
    FURROW_COST,
    GLARE,
    GLARE_COST,
    SOURCE_COST,
    eye_white,
    furrows,
    glare,
)
from deid_diffusion.methods.candidates import candidate_score as score
from deid_diffusion.pipelines.conditioning import FIELDS
from tests.tiny import tiny_shape

SIZE = 256


@pytest.fixture
def granted() -> dict:
    mesh = tiny_shape().mean[:, :2] * 60 + [128, 100]
    picture = np.full((SIZE, SIZE, 3), 120, np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    erased = (np.hypot(x - 128, y - 120) < 90).astype(np.float32)
    asked = {name: field.centre for name, field in FIELDS.items()}
    return {"generated": picture, "source": picture, "inpaint_mask": erased, "mesh": mesh, "wanted": asked,
            "found": seen_as(mesh, asked)}  # fmt: skip


def seen_as(mesh: np.ndarray, found: dict, ood_score: float = 0.0) -> FaceAnalysis:
    return FaceAnalysis(mesh, Attributes(**found), Placement(1.0, np.eye(3), np.zeros(3)), SIZE, ood_score)


def test_what_was_granted_costs_nothing(granted):
    assert score(**granted) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", list(COSTS))
def test_an_attribute_missed_by_half_its_scale_costs_half_its_price(granted, name):
    found = granted["wanted"] | {name: granted["wanted"][name] + 0.5 * FIELDS[name].scale}
    assert score(**granted | {"found": seen_as(granted["mesh"], found)}) == pytest.approx(0.5 * COSTS[name], abs=1e-4)
    unasked = {other: value for other, value in granted["wanted"].items() if other != name}
    assert score(**granted | {"found": seen_as(granted["mesh"], found), "wanted": unasked}) == pytest.approx(
        0, abs=1e-4
    )


def test_skin_and_light_are_not_held_against_a_face(granted):
    found = granted["wanted"] | {"skin_l": 10.0, "light_x": 1.0}
    assert score(**granted | {"found": seen_as(granted["mesh"], found)}) == pytest.approx(0, abs=1e-4)


def test_what_is_unlike_photos_costs(granted):
    costs = [score(**granted | {"found": seen_as(granted["mesh"], granted["wanted"], odd)}) for odd in (0.8, 1.2)]
    assert costs[1] == pytest.approx(1.5 * costs[0], rel=1e-3)


def test_the_source_s_own_look_costs_and_being_its_opposite_gains_nothing(granted):
    costs = [score(**granted, similarity=cosine) for cosine in (-0.5, 0.0, 0.1)]
    assert costs[0] == costs[1]
    assert costs[2] - costs[1] == pytest.approx(0.1 * SOURCE_COST)


def test_black_eyes_cost_and_dark_irises_do_not(granted):
    def with_eyes(radius: float, level: int) -> np.ndarray:
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        picture, irises = granted["generated"].copy(), granted["mesh"][[468, 473]]
        picture[np.any([np.hypot(x - a, y - b) < radius for a, b in irises], axis=0)] = level
        return picture

    assert eye_white(with_eyes(3, 0), granted["mesh"]) == pytest.approx(1)
    assert score(**granted | {"generated": with_eyes(3, 0)}) == pytest.approx(0, abs=1e-4)
    assert eye_white(with_eyes(25, 30), granted["mesh"]) == pytest.approx(30 / 120)
    black = score(**granted | {"generated": with_eyes(25, 30)})
    assert black == pytest.approx(EYE_COST * (EYE_WHITE - 30 / 120), abs=1e-4)


def test_landmarks_cost_by_how_far_they_lie_off(granted):
    costs = [score(**granted | {"found": seen_as(granted["mesh"] + [by, 0], granted["wanted"])}) for by in (1, 2, 4)]
    assert costs[1] == pytest.approx(2 * costs[0], rel=1e-3)
    assert costs[2] == pytest.approx(4 * costs[0], rel=1e-3)


def test_hair_that_does_not_go_on_costs_and_what_is_erased_is_not_read(granted):
    dark = granted["generated"].copy()
    dark[:, :100] = 20
    assert score(**granted | {"generated": dark}) > 0.5
    hidden = np.where(granted["inpaint_mask"][..., None] > 0, 255 - granted["source"], granted["source"])
    assert score(**granted | {"generated": dark, "source": hidden}) == score(**granted | {"generated": dark})


def test_a_crop_that_is_all_erased_has_no_edge(granted):
    everywhere = np.ones((SIZE, SIZE), np.float32)
    assert score(**granted | {"inpaint_mask": everywhere, "generated": granted["generated"] // 2}) == pytest.approx(
        0, abs=1e-4
    )


def test_a_glare_costs_and_light_from_the_side_does_not(granted):
    mesh, picture = granted["mesh"], granted["generated"].copy()
    x, y = mesh[[168, 1]].mean(0).astype(int)  # halfway down the nose
    picture[y - 8 : y + 8, x - 8 : x + 8] = 255
    assert glare(picture, mesh) > GLARE
    cost = score(**granted | {"generated": picture, "source": picture})
    assert cost == pytest.approx(GLARE_COST * (glare(picture, mesh) - GLARE), abs=1e-3)
    lit = np.linspace(60, 200, SIZE).astype(np.uint8)[None, :, None].repeat(SIZE, 0).repeat(3, 2)
    assert glare(lit, mesh) < GLARE
    assert glare(picture, mesh + 1000) == 0  # no skin in sight


def scarred() -> np.ndarray:
    x = np.arange(SIZE)[None, :, None]
    lines = 120 + 20 * np.sin(x * 2 * np.pi / 9) + np.zeros((SIZE, SIZE, 3))
    return np.rint(lines).astype(np.uint8)


def test_scars_cost_and_smooth_shade_does_not(granted):
    mesh, picture = granted["mesh"], scarred()
    deep = furrows(picture, mesh)
    assert FURROW < deep < 20 / 2**0.5  # less than the amplitude: part of a line is shade
    shaded = np.linspace(60, 200, SIZE).astype(np.uint8)[None, :, None].repeat(SIZE, 0).repeat(3, 2)
    assert furrows(shaded, mesh) < FURROW / 2
    costs = []
    for beard in (0.0, 1.0):  # a beard is rough, and no scar
        asked = granted["wanted"] | {"facial_hair": beard}
        costs.append(
            score(
                **granted | {"generated": picture, "source": picture, "wanted": asked, "found": seen_as(mesh, asked)}
            )
        )
    assert costs[0] - costs[1] == pytest.approx(FURROW_COST * (deep - FURROW), abs=1e-3)


def test_scars_are_as_deep_on_a_crop_of_twice_the_size(granted):
    mesh, picture = granted["mesh"], scarred()
    twice = picture.repeat(2, 0).repeat(2, 1)
    assert furrows(twice, mesh * 2) == pytest.approx(furrows(picture, mesh), rel=0.1)


def test_no_cheek_has_no_furrows(granted):
    assert furrows(scarred(), granted["mesh"] + 1000) == 0
    assert furrows(scarred(), granted["mesh"] * 0) == 0
