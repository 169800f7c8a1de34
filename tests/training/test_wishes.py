"""Wishes are for people that no crop shows, and what is not granted costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deid_diffusion.attributes import SIDE, split_outputs
from deid_diffusion.geometry import NOSE_TIP, OMZ_TEMPLATE
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.probes import REGIONS, Probes, look
from deid_diffusion.training import distill, inpaint
from deid_diffusion.training.data import Batch, FaceSet
from deid_diffusion.training.id_encoder import build_guide
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.masks import foreheads
from deid_diffusion.training.reader import build_reader
from deid_diffusion.training.wishes import (
    AGE,
    FINE_PATCH,
    GLASSES,
    HAIR,
    LEEWAY,
    MALE,
    SAY,
    SURE,
    TEACHER_SIDE,
    TINT_LEEWAY,
    Crowd,
    Wish,
    Witnesses,
    blotches,
    disobedience,
    eye_whites,
    glance,
    make_wish,
    teacher_view,
    unsure,
)
from tests.tiny import tiny_shape

PEOPLE, DIM = 60, 256
WIDTHS = (8, 8, 8, 8)


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    """Half of them women of 25, half men of 60; every third wears glasses."""
    generator = torch.Generator().manual_seed(0)
    attributes = torch.zeros(PEOPLE, len(FIELDS))
    number = torch.arange(PEOPLE)
    attributes[:, MALE] = (number % 2).float()
    attributes[:, AGE] = torch.where(number % 2 == 1, 60.0, 25.0)
    attributes[:, GLASSES] = (number % 3 == 0).float()
    embedding = torch.nn.functional.normalize(torch.randn(PEOPLE, DIM, generator=generator), dim=-1)
    mean = torch.tensor(tiny_shape().mean).float() * 45 + torch.tensor([128.0, 110.0, 0.0])
    landmarks = mean + torch.randn(PEOPLE, 478, 3, generator=generator)
    return FaceSet(
        images=torch.randint(0, 255, (PEOPLE, 3, 256, 256), generator=generator, dtype=torch.uint8),
        landmarks=landmarks, attributes=attributes, embedding=embedding,
        expression=torch.full((PEOPLE, 7), 1 / 7), weight=torch.ones(PEOPLE), train=torch.ones(PEOPLE, dtype=bool),
        mirror=torch.arange(478), shape=tiny_shape(), keys=[str(n) for n in range(PEOPLE)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def witnesses(tmp_path_factory) -> Witnesses:
    """Real networks with random weights, loaded the way a run loads them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("witnesses")
    build_reader(WIDTHS).save_pretrained(folder / "network")
    build_guide(WIDTHS, DIM).save_pretrained(folder / "id_encoder")
    teacher = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, DIM))
    torch.jit.script(teacher).save(str(folder / "teacher.pt"))
    return Witnesses.load(folder, folder, torch.device("cpu"), folder / "teacher.pt")


def batch_of(faces: FaceSet, numbers: list[int]) -> Batch:
    return Batch(
        faces.images[numbers].float() / 127.5 - 1, faces.landmarks[numbers], faces.attributes[numbers],
        faces.embedding[numbers], faces.expression[numbers],
    )  # fmt: skip


def granted(wish: Wish, witnesses: Witnesses) -> Batch:
    """A batch that asks for exactly what its pictures already show."""
    images = wish.batch.image
    small = torch.nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    read = split_outputs(witnesses.reader(small).logits)
    attributes = wish.batch.attributes.clone()
    attributes[:, AGE] = read.age
    for column, logit in ((MALE, read.male), (GLASSES, read.glasses), (HAIR, read.facial_hair)):
        attributes[:, column] = (logit > 0).float()
    landmarks = read.landmarks * images.shape[-1]
    return Batch(images, landmarks, attributes, embed(witnesses.guide, images), wish.batch.expression)


def told(count: int, validity: float = 1.0) -> torch.Tensor:
    vector = torch.zeros(count, 2 * len(FIELDS) + DIM + 1)
    vector[:, len(FIELDS) : 2 * len(FIELDS)] = validity
    vector[:, -1] = validity
    return vector


def test_a_wish_is_for_somebody_else_of_the_wished_age_and_gender_without_glasses(faces, witnesses):
    batch = batch_of(faces, list(range(24)))
    wish = make_wish(batch, faces, witnesses.guide, torch.Generator().manual_seed(1))
    chosen = (wish.batch.embedding @ faces.embedding.T).argmax(1)
    looks, wanted = faces.attributes[chosen], wish.batch.attributes
    assert (looks[:, GLASSES] == 0).all()
    near = (looks[:, AGE] - wanted[:, AGE]).abs() < 35
    assert (near | (looks[:, MALE] == wanted[:, MALE])).all()
    assert (chosen != torch.arange(24)).float().mean() > 0.8
    assert 0 < wanted[:, GLASSES].mean() < 1
    assert (wanted[:, HAIR] <= wanted[:, MALE]).all()
    assert torch.allclose(wish.source, embed(witnesses.guide, batch.image))
    assert torch.equal(wish.teacher_source, batch.embedding)
    unchanged = [n for n, name in enumerate(ATTRIBUTE_NAMES) if name not in ("age", "male", "glasses", "facial_hair")]
    assert (wanted[:, unchanged] == batch.attributes[:, unchanged]).all()


def test_a_granted_wish_costs_less_than_any_other(faces, witnesses):
    wish = make_wish(batch_of(faces, [1, 2, 3]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    content = replace(wish, batch=granted(wish, witnesses), source=-wish.source, teacher_source=-wish.teacher_source)
    other = content.batch.attributes.clone()
    other[:, AGE] += 30
    other[:, [MALE, GLASSES, HAIR]] = 1 - other[:, [MALE, GLASSES, HAIR]]
    landmarks, embedding = content.batch.landmarks + 20, -content.batch.embedding
    other = Batch(wish.batch.image, landmarks, other, embedding, wish.batch.expression)
    generator = torch.Generator().manual_seed(2)
    got = disobedience(wish.batch.image, content, told(3), witnesses, generator)
    missed = disobedience(wish.batch.image, replace(wish, batch=other), told(3), witnesses, generator)
    assert set(got) == set(missed) == set(SAY) - {"crowd", "teacher_crowd"}
    for name in ("person", "source", "landmarks", "age", "male", "glasses", "facial_hair"):
        assert got[name] < missed[name], name
    assert got["landmarks"] < 1e-5
    assert got["age"] < 1e-5
    assert got["person"] == 0


def test_only_the_inner_face_is_blamed(faces, witnesses):
    wish = make_wish(batch_of(faces, [6, 7]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    painted = wish.batch.image.clone().requires_grad_(True)
    sum(disobedience(painted, wish, told(2), witnesses, torch.Generator().manual_seed(2)).values()).backward()
    outside = wish.inner.expand_as(painted) == 0
    assert 0.1 < outside.float().mean() < 0.9
    assert (painted.grad[outside] == 0).all()
    assert painted.grad[~outside].abs().max() > 0


def test_hair_and_forehead_are_the_surroundings(faces, witnesses):
    """Where glasses or a beard come or go, the sides of the face are nobody's to know."""
    batch = batch_of(faces, list(range(24)))
    wish = make_wish(batch, faces, witnesses.guide, torch.Generator().manual_seed(1))
    changed = (wish.batch.attributes[:, [GLASSES, HAIR]] != batch.attributes[:, [GLASSES, HAIR]]).any(1)
    assert 0 < changed.sum() < 24
    assert (wish.context + wish.inner <= 1).all()
    forehead = foreheads(batch.landmarks, 256)
    for row, without in zip(range(24), changed, strict=True):
        below = wish.context[row][forehead[row] == 0]
        assert (below.max() == 0) == bool(without)
        assert wish.context[row][forehead[row] == 1].max() == 1


@pytest.mark.parametrize("rollout", [0, 2])
def test_a_wish_holds_no_trace_of_the_source_s_face(faces, witnesses, features, rollout):
    """Two sources alike but for their inner faces are painted over alike, noise and all; only colours are compared."""
    network = PerceptualLoss(features)
    batch = batch_of(faces, [8, 9])
    wish = make_wish(batch, faces, witnesses.guide, torch.Generator().manual_seed(1))
    wish = replace(wish, plain=torch.zeros_like(wish.plain))
    options = distill.Options(critic_weight=0.0, rollout_batch=rollout)
    student = inpaint.build_unet((32, 32, 32, 32), 1)

    def loss_with(image: torch.Tensor) -> float:
        seen = replace(wish, batch=replace(wish.batch, image=image))
        with torch.no_grad():
            return float(
                distill.loss_on_wish(
                    student, None, seen, witnesses, options, network, torch.Generator().manual_seed(3)
                )
            )

    other = torch.where(wish.inner == 1, -wish.batch.image, wish.batch.image)
    beside = torch.where(wish.context == 1, -wish.batch.image, wish.batch.image)
    assert loss_with(other) == pytest.approx(loss_with(wish.batch.image), rel=1e-5)
    assert loss_with(beside) != pytest.approx(loss_with(wish.batch.image), rel=1e-3)


def test_nobody_is_blamed_for_what_was_not_said(faces, witnesses):
    wish = make_wish(batch_of(faces, [4, 5]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    lost = disobedience(wish.batch.image, wish, told(2, 0.0), witnesses, torch.Generator().manual_seed(2))
    assert {name for name, loss in lost.items() if loss > 0} <= {"landmarks", "source", "teacher_source"}


def test_blame_reaches_the_painted_pixels_and_no_witness(faces, witnesses):
    wish = make_wish(batch_of(faces, [6, 7]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    painted = wish.batch.image.clone().requires_grad_(True)
    losses = disobedience(painted, wish, told(2), witnesses, torch.Generator().manual_seed(2))
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, painted, retain_graph=True, allow_unused=True)
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    sum(losses.values()).backward()
    nets = (witnesses.reader, witnesses.guide, witnesses.teacher)
    assert all(weight.grad is None for net in nets for weight in net.parameters())


def test_who_is_sure_enough_is_pushed_no_further():
    logits = torch.tensor([SURE + 1, -SURE - 1, 0.0, 0.0, -1.0, 1.0], requires_grad=True)
    lost = unsure(logits, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]))
    assert lost.tolist() == [0, 0, SURE, SURE, SURE + 1, SURE + 1]
    lost.sum().backward()
    assert logits.grad.tolist() == [0, 0, -1, 1, -1, 1]


def test_probes_have_a_say_on_glasses_and_beards(faces, witnesses):
    """A probe that sees glasses everywhere is content with all who should wear some, and with nobody else."""
    wish = make_wish(batch_of(faces, [6, 7]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    unit = wish.batch.image / 2 + 0.5
    sure = torch.zeros(look(unit, wish.batch.landmarks, REGIONS["glasses"]).shape[1] + 1)
    sure[-1] = 50.0

    def glasses(wanted: float, **probes: Probes) -> float:
        attributes = wish.batch.attributes.clone()
        attributes[:, GLASSES] = wanted
        asked = replace(wish, batch=replace(wish.batch, attributes=attributes))
        seeing = replace(witnesses, **probes)
        return float(
            disobedience(wish.batch.image, asked, told(2), seeing, torch.Generator().manual_seed(2))["glasses"]
        )

    probes = Probes({"glasses": sure})
    assert glasses(1.0, probes=probes) == pytest.approx(glasses(1.0) / 2)
    assert glasses(0.0, probes=probes) == pytest.approx((glasses(0.0) + SAY["glasses"] * (SURE + 50)) / 2)


def test_probes_that_are_not_there_have_no_say(tmp_path):
    build_reader(WIDTHS).save_pretrained(tmp_path / "network")
    build_guide(WIDTHS, DIM).save_pretrained(tmp_path / "id_encoder")
    told, path = (tmp_path, tmp_path, torch.device("cpu"), ""), tmp_path / "labels.safetensors"
    assert Witnesses.load(*told, path).probes is None
    Probes({"glasses": torch.ones(9)}).save(path)
    assert Witnesses.load(*told, path).probes.weights["glasses"].tolist() == [1.0] * 9
    assert Witnesses.load(*told).probes is None


def test_the_critic_sees_whole_faces_with_the_reader_s_eyes_and_goes_on(witnesses, features, tmp_path):
    network = PerceptualLoss(features)
    edges = distill.build_critic(network).eval()  # in training, spectral norms move with every look
    save_file(edges.state_dict(), tmp_path / "critic.safetensors")
    whole = distill.build_critic(network, witnesses, str(tmp_path / "critic.safetensors")).eval()
    image = torch.rand(1, 3, 256, 256)
    maps = distill.chosen(network.features(image))
    faces = distill.face_states(witnesses, image)
    assert len(whole(maps + faces)) == len(edges.heads) + len(faces) == len(whole.heads)
    # Heads that were loaded judge as they did; windows, which are no whole faces, get by without the rest.
    with torch.no_grad():
        for before, after in zip(edges(maps), whole(maps), strict=True):
            assert torch.equal(before, after)


def test_a_glance_stays_within_crops_of_any_size():
    for seed in range(12):
        for size in (64, 256):
            images, shift = glance(torch.rand(1, 3, size, size), torch.Generator().manual_seed(seed))
            assert images.shape == (1, 3, size, size)
            embed(build_guide(WIDTHS, DIM).eval(), images, shift)


def test_without_a_teacher_only_the_guide_says_who_it_is(faces, witnesses):
    wish = make_wish(batch_of(faces, [6, 7]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    alone = Witnesses(witnesses.reader, witnesses.guide)
    losses = disobedience(wish.batch.image, wish, told(2), alone, torch.Generator().manual_seed(2))
    assert set(SAY) - set(losses) == {"teacher", "teacher_source", "crowd", "teacher_crowd"}


def test_painted_faces_may_be_as_alike_as_the_people_wished_for_and_no_more():
    east, north, between = (torch.tensor([v]) for v in ([1.0, 0.0], [0.0, 1.0], [0.8, 0.6]))
    crowd = Crowd(count=2)
    assert crowd.resemblance(east, east) == 0  # nobody there yet
    assert crowd.resemblance(north, north) == 0
    assert crowd.resemblance(between, torch.tensor([[-1.0, 0.0]])) == pytest.approx(0.7)  # 0.8 and 0.6, wished 0
    assert len(crowd.painted) == 2  # who came first has left
    assert crowd.resemblance(between, between) == pytest.approx((1.0 + 0) / 2)  # like itself, as wished of the other


def test_who_was_told_to_nobody_joins_no_crowd(faces, witnesses):
    wish = make_wish(batch_of(faces, [1, 2, 3]), faces, witnesses.guide, torch.Generator().manual_seed(1))
    crowds = {"crowd": Crowd(), "teacher_crowd": Crowd()}
    for validity, joined in ((0.0, 0), (1.0, 3), (1.0, 6)):
        painted = wish.batch.image.clone().requires_grad_(True)
        generator = torch.Generator().manual_seed(2)
        losses = disobedience(painted, wish, told(3, validity), witnesses, generator, crowds)
        assert {"crowd", "teacher_crowd"} <= set(losses)
        assert len(crowds["crowd"].painted) == len(crowds["teacher_crowd"].told) == joined
    assert losses["crowd"] > 0  # the same faces once more, and other people wished for
    (gradient,) = torch.autograd.grad(losses["crowd"], painted)
    assert gradient.abs().max() > 0


def test_blotches_cost_beyond_what_people_differ_by():
    grey, inner = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    inner[..., 16:48, 16:48] = 1
    assert blotches(grey + 0.9 * LEEWAY, grey, inner) == 0
    noise = torch.where(torch.arange(64) % 2 == 0, 0.9, -0.9).expand(1, 3, 64, 64)
    assert blotches(noise, grey, inner) < 1e-6  # detail is free
    dark, red, outside = grey.clone(), grey.clone(), grey.clone()
    dark[:, :, 16:32, 16:32] = -0.5
    red[:, 0, 16:32, 16:32] = 0.3
    outside[:, :, :16] = 0.9
    assert blotches(dark, grey, inner)[0] == pytest.approx((0.5 - LEEWAY) / 4)  # one of four patches
    tints = (0.3 - TINT_LEEWAY) + (0.15 - TINT_LEEWAY)  # and a grey of 0.1 is free
    assert blotches(red, grey, inner)[0] == pytest.approx(tints / 4)
    assert blotches(outside, grey, inner) == 0
    glare = grey.clone()
    glare[:, :, 24:32, 24:32] = 0.4
    assert blotches(glare, grey, inner) == 0  # lost in a coarse patch
    assert blotches(glare, grey, inner, FINE_PATCH)[0] == pytest.approx((0.4 - LEEWAY) / 16)


def test_black_eyes_have_no_white_and_dark_irises_do(faces):
    landmarks = faces.landmarks[:2]
    y, x = torch.meshgrid(torch.arange(256) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    irises = torch.stack([(x - face[n, 0]) ** 2 + (y - face[n, 1]) ** 2 < 9 for face in landmarks for n in (468, 473)])
    irises = irises.view(2, 2, 1, 256, 256).any(1)
    white = torch.full((2, 3, 256, 256), 0.4)
    assert eye_whites(white.masked_fill(irises, -1), landmarks) == pytest.approx(np.full(2, 0.4), abs=1e-5)
    black = white.clone()
    black[0, :, :, :128] = -0.8  # one eye of one face
    black.requires_grad_()
    seen = eye_whites(black, landmarks)
    assert seen.detach() == pytest.approx(np.array([-0.2, 0.4]), abs=1e-5)
    (gradient,) = torch.autograd.grad(seen.sum(), black)
    rows = (gradient.abs().sum(1)[0] > 0).nonzero()[:, 0].float()
    assert (rows - landmarks[0, 468, 1]).abs().amax() < 10  # only eyes


def test_colours_are_the_source_s_only_where_nobody_wears_anything(faces, witnesses):
    batch = batch_of(faces, list(range(24)))
    wish = make_wish(batch, faces, witnesses.guide, torch.Generator().manual_seed(1))
    worn = ((batch.attributes > 0.5) | (wish.batch.attributes > 0.5))[:, [GLASSES, HAIR]]
    tips = batch.landmarks[:, NOSE_TIP, 1].round().int()
    for plain, inner, (glasses, beard), tip in zip(wish.plain[:, 0], wish.inner[:, 0], worn, tips, strict=True):
        above, below = (slice(0, tip - 1), glasses), (slice(tip + 1, None), beard)
        for rows, changed in (above, below):
            assert torch.equal(plain[rows], torch.zeros_like(plain[rows]) if changed else inner[rows])
    assert 0 < worn.float().mean() < 1


@pytest.mark.parametrize(("scale", "turn"), [(100.0, 0.0), (60.0, 0.4)])
def test_the_teacher_sees_a_face_where_it_wants_it(scale, turn):
    """Five dots on a black crop, turned and scaled, come to lie on the template."""
    cos, sin = np.cos(turn), np.sin(turn)
    five = (np.array(OMZ_TEMPLATE) - 0.5) @ np.array([[cos, sin], [-sin, cos]]) * scale + (130, 120)
    y, x = np.mgrid[:256, :256] + 0.5
    dots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in five)
    image = torch.tensor(dots, dtype=torch.float32)[None, None].expand(1, 3, -1, -1) * 2 - 1
    views = [
        teacher_view(image, torch.tensor(five, dtype=torch.float32)[None], torch.Generator().manual_seed(seed))
        for seed in range(12)
    ]
    assert views[0].shape == (1, 3, TEACHER_SIDE, TEACHER_SIDE)
    mean = torch.stack(views).mean(0)[0, 0].numpy()
    columns, rows = np.round(np.array(OMZ_TEMPLATE).T * TEACHER_SIDE - 0.5).astype(int)
    around = [mean[max(r - 3, 0) : r + 4, c - 3 : c + 4].max() for r, c in zip(rows, columns, strict=True)]
    assert min(around) > 0.3 * mean.max()
    assert min(around) > 10 * np.median(mean)


def test_the_teacher_gets_blue_first_in_0_to_255():
    image = torch.tensor([1.0, 0.0, -1.0])[None, :, None, None].expand(1, 3, 64, 64)
    five = torch.tensor(OMZ_TEMPLATE).float()[None] * 40 + 12
    view = teacher_view(image, five, torch.Generator().manual_seed(0))
    assert view[0, :, 64, 64].tolist() == pytest.approx([0.0, 127.5, 255.0], abs=0.1)
