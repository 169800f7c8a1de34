"""Counterfactual conditions are for faces that no crop shows, and what of them is not satisfied costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deid_diffusion.faces.attribute_classifiers import REGIONS, AttributeClassifiers, look
from deid_diffusion.faces.estimator import OUTPUTS, SIDE, split_outputs
from deid_diffusion.faces.geometry import NOSE_TIP, OMZ_TEMPLATE
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.training import distill, inpaint
from deid_diffusion.training.adversarial import build_critic, critic_maps, estimator_maps
from deid_diffusion.training.artefacts import FINE_PATCH, GREY_TOLERANCE, TINT_TOLERANCE, blotches, eye_whites
from deid_diffusion.training.counterfactual import (
    AGE,
    FACIAL_HAIR,
    GLASSES,
    LOGIT_MARGIN,
    LOSS_WEIGHTS,
    MALE,
    CounterfactualCondition,
    SimilarityMemory,
    condition_consistency,
    hinge,
    make_counterfactual,
)
from deid_diffusion.training.data import Batch, FaceSet
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.masks import foreheads
from deid_diffusion.training.resnet import build_resnet
from deid_diffusion.training.teachers import RECOGNISER_SIDE, FrozenTeachers, augmented_view, recogniser_view
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
def teachers(tmp_path_factory) -> FrozenTeachers:
    """Real networks with random weights, loaded the way a run loads them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teachers")
    build_resnet(WIDTHS, OUTPUTS).save_pretrained(folder / "network")
    build_resnet(WIDTHS, DIM).save_pretrained(folder / "id_encoder")
    recogniser = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, DIM))
    torch.jit.script(recogniser).save(str(folder / "recogniser.pt"))
    return FrozenTeachers.load(folder, folder, torch.device("cpu"), folder / "recogniser.pt")


def batch_of(faces: FaceSet, numbers: list[int]) -> Batch:
    return Batch(
        faces.images[numbers].float() / 127.5 - 1, faces.landmarks[numbers], faces.attributes[numbers],
        faces.embedding[numbers], faces.expression[numbers],
    )  # fmt: skip


def condition_on(faces: FaceSet, teachers: FrozenTeachers, numbers: list[int]) -> CounterfactualCondition:
    return make_counterfactual(batch_of(faces, numbers), faces, teachers.id_encoder, torch.Generator().manual_seed(1))


def satisfied(condition: CounterfactualCondition, teachers: FrozenTeachers) -> Batch:
    """A batch of conditions that its pictures already satisfy."""
    images = condition.batch.image
    small = torch.nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    found = split_outputs(teachers.estimator(small).logits)
    attributes = condition.batch.attributes.clone()
    attributes[:, AGE] = found.age
    for column, logit in ((MALE, found.male), (GLASSES, found.glasses), (FACIAL_HAIR, found.facial_hair)):
        attributes[:, column] = (logit > 0).float()
    landmarks = found.landmarks * images.shape[-1]
    return Batch(images, landmarks, attributes, embed(teachers.id_encoder, images), condition.batch.expression)


def vectors(count: int, validity: float = 1.0) -> torch.Tensor:
    vector = torch.zeros(count, 2 * len(FIELDS) + DIM + 1)
    vector[:, len(FIELDS) : 2 * len(FIELDS)] = validity
    vector[:, -1] = validity
    return vector


def test_a_target_is_somebody_else_of_the_given_age_and_gender_without_glasses(faces, teachers):
    batch = batch_of(faces, list(range(24)))
    condition = make_counterfactual(batch, faces, teachers.id_encoder, torch.Generator().manual_seed(1))
    chosen = (condition.batch.embedding @ faces.embedding.T).argmax(1)
    looks, wanted = faces.attributes[chosen], condition.batch.attributes
    assert (looks[:, GLASSES] == 0).all()
    near = (looks[:, AGE] - wanted[:, AGE]).abs() < 35
    assert (near | (looks[:, MALE] == wanted[:, MALE])).all()
    assert (chosen != torch.arange(24)).float().mean() > 0.8
    assert 0 < wanted[:, GLASSES].mean() < 1
    assert (wanted[:, FACIAL_HAIR] <= wanted[:, MALE]).all()
    assert torch.allclose(condition.source, embed(teachers.id_encoder, batch.image))
    assert torch.equal(condition.source_recogniser, batch.embedding)
    unchanged = [n for n, name in enumerate(ATTRIBUTE_NAMES) if name not in ("age", "male", "glasses", "facial_hair")]
    assert (wanted[:, unchanged] == batch.attributes[:, unchanged]).all()


def test_a_satisfied_condition_costs_less_than_any_other(faces, teachers):
    condition = condition_on(faces, teachers, [1, 2, 3])
    content = replace(
        condition,
        batch=satisfied(condition, teachers),
        source=-condition.source,
        source_recogniser=-condition.source_recogniser,
    )
    other = content.batch.attributes.clone()
    other[:, AGE] += 30
    other[:, [MALE, GLASSES, FACIAL_HAIR]] = 1 - other[:, [MALE, GLASSES, FACIAL_HAIR]]
    landmarks, embedding = content.batch.landmarks + 20, -content.batch.embedding
    other = Batch(condition.batch.image, landmarks, other, embedding, condition.batch.expression)
    generator = torch.Generator().manual_seed(2)
    got = condition_consistency(condition.batch.image, content, vectors(3), teachers, generator)
    missed = condition_consistency(
        condition.batch.image, replace(condition, batch=other), vectors(3), teachers, generator
    )
    assert set(got) == set(missed) == set(LOSS_WEIGHTS) - {"similarity", "similarity_recogniser"}
    for name in ("identity", "source", "landmarks", "age", "male", "glasses", "facial_hair"):
        assert got[name] < missed[name], name
    assert got["landmarks"] < 1e-5
    assert got["age"] < 1e-5
    assert got["identity"] == 0


def test_only_the_inner_face_gets_a_gradient(faces, teachers):
    condition = condition_on(faces, teachers, [6, 7])
    generated = condition.batch.image.clone().requires_grad_(True)
    sum(
        condition_consistency(generated, condition, vectors(2), teachers, torch.Generator().manual_seed(2)).values()
    ).backward()
    outside = condition.inner.expand_as(generated) == 0
    assert 0.1 < outside.float().mean() < 0.9
    assert (generated.grad[outside] == 0).all()
    assert generated.grad[~outside].abs().max() > 0


def test_hair_and_forehead_are_the_surroundings(faces, teachers):
    """Where glasses or a beard come or go, the sides of the face are nobody's to know."""
    batch = batch_of(faces, list(range(24)))
    condition = make_counterfactual(batch, faces, teachers.id_encoder, torch.Generator().manual_seed(1))
    changed = (
        condition.batch.attributes[:, [GLASSES, FACIAL_HAIR]] != batch.attributes[:, [GLASSES, FACIAL_HAIR]]
    ).any(1)
    assert 0 < changed.sum() < 24
    assert (condition.context + condition.inner <= 1).all()
    forehead = foreheads(batch.landmarks, 256)
    for row, without in zip(range(24), changed, strict=True):
        below = condition.context[row][forehead[row] == 0]
        assert (below.max() == 0) == bool(without)
        assert condition.context[row][forehead[row] == 1].max() == 1


@pytest.mark.parametrize("rollout", [0, 2])
def test_the_noisy_crop_holds_no_trace_of_the_source_s_face(faces, teachers, features, rollout):
    """Two sources alike but for their inner faces give the same loss, noise and all; only colours are compared."""
    network = PerceptualLoss(features)
    batch = batch_of(faces, [8, 9])
    condition = make_counterfactual(batch, faces, teachers.id_encoder, torch.Generator().manual_seed(1))
    condition = replace(condition, plain=torch.zeros_like(condition.plain))
    options = distill.Options(critic_weight=0.0, rollout_batch=rollout)
    student = inpaint.build_unet((32, 32, 32, 32), 1)
    losses = distill.Losses(options, network, teachers=teachers, memories=None)

    def loss_with(image: torch.Tensor) -> float:
        seen = replace(condition, batch=replace(condition.batch, image=image))
        with torch.no_grad():
            return float(losses.on_counterfactual(student, None, seen, torch.Generator().manual_seed(3)))

    other = torch.where(condition.inner == 1, -condition.batch.image, condition.batch.image)
    beside = torch.where(condition.context == 1, -condition.batch.image, condition.batch.image)
    assert loss_with(other) == pytest.approx(loss_with(condition.batch.image), rel=1e-5)
    assert loss_with(beside) != pytest.approx(loss_with(condition.batch.image), rel=1e-3)


def test_what_weights_knew_is_kept_but_of_ages_that_they_did_not(faces, teachers, features):
    """A student that answers as its teacher loses nothing; another does, unless all are children."""
    batch = batch_of(faces, [8, 9])
    condition = make_counterfactual(batch, faces, teachers.id_encoder, torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    before, other = (inpaint.build_unet((32, 32, 32, 32), 1) for _ in range(2))
    options = distill.Options(window=128, student_steps=2)
    losses = distill.Losses(options, PerceptualLoss(features), teacher=before)

    def loss_at(age: float, student: torch.nn.Module) -> float:
        attributes = condition.batch.attributes.clone()
        attributes[:, AGE] = age
        asked = replace(condition, batch=replace(condition.batch, attributes=attributes))
        with torch.no_grad():
            return float(losses.on_kept(student, asked, torch.Generator().manual_seed(3)))

    assert loss_at(30, before) == pytest.approx(0, abs=1e-9)
    assert loss_at(30, other) > 1e-3
    assert loss_at(6, other) == 0


def test_what_was_not_given_costs_nothing(faces, teachers):
    condition = condition_on(faces, teachers, [4, 5])
    lost = condition_consistency(
        condition.batch.image, condition, vectors(2, 0.0), teachers, torch.Generator().manual_seed(2)
    )
    assert {name for name, loss in lost.items() if loss > 0} <= {"landmarks", "source", "source_recogniser"}


def test_gradients_reach_the_generated_pixels_and_no_teacher(faces, teachers):
    condition = condition_on(faces, teachers, [6, 7])
    generated = condition.batch.image.clone().requires_grad_(True)
    losses = condition_consistency(generated, condition, vectors(2), teachers, torch.Generator().manual_seed(2))
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, generated, retain_graph=True, allow_unused=True)
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    sum(losses.values()).backward()
    nets = (teachers.estimator, teachers.id_encoder, teachers.recogniser)
    assert all(weight.grad is None for net in nets for weight in net.parameters())


def test_logits_beyond_the_margin_cost_nothing():
    logits = torch.tensor([LOGIT_MARGIN + 1, -LOGIT_MARGIN - 1, 0.0, 0.0, -1.0, 1.0], requires_grad=True)
    lost = hinge(logits, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]))
    assert lost.tolist() == [0, 0, LOGIT_MARGIN, LOGIT_MARGIN, LOGIT_MARGIN + 1, LOGIT_MARGIN + 1]
    lost.sum().backward()
    assert logits.grad.tolist() == [0, 0, -1, 1, -1, 1]


def test_classifiers_are_a_second_opinion_on_glasses_and_beards(faces, teachers):
    """A classifier that sees glasses everywhere is satisfied by all who should wear some, and by nobody else."""
    condition = condition_on(faces, teachers, [6, 7])
    unit = condition.batch.image / 2 + 0.5
    sure = torch.zeros(look(unit, condition.batch.landmarks, REGIONS["glasses"]).shape[1] + 1)
    sure[-1] = 50.0

    def glasses(wanted: float, **classifiers: AttributeClassifiers) -> float:
        attributes = condition.batch.attributes.clone()
        attributes[:, GLASSES] = wanted
        asked = replace(condition, batch=replace(condition.batch, attributes=attributes))
        seeing = replace(teachers, **classifiers)
        return float(
            condition_consistency(condition.batch.image, asked, vectors(2), seeing, torch.Generator().manual_seed(2))[
                "glasses"
            ]
        )

    classifiers = AttributeClassifiers({"glasses": sure})
    assert glasses(1.0, classifiers=classifiers) == pytest.approx(glasses(1.0) / 2)
    assert glasses(0.0, classifiers=classifiers) == pytest.approx(
        (glasses(0.0) + LOSS_WEIGHTS["glasses"] * (LOGIT_MARGIN + 50)) / 2
    )


def test_classifiers_may_be_missing(tmp_path):
    build_resnet(WIDTHS, OUTPUTS).save_pretrained(tmp_path / "network")
    build_resnet(WIDTHS, DIM).save_pretrained(tmp_path / "id_encoder")
    given, path = (tmp_path, tmp_path, torch.device("cpu"), ""), tmp_path / "labels.safetensors"
    assert FrozenTeachers.load(*given, path).classifiers is None
    AttributeClassifiers({"glasses": torch.ones(9)}).save(path)
    assert FrozenTeachers.load(*given, path).classifiers.weights["glasses"].tolist() == [1.0] * 9
    assert FrozenTeachers.load(*given).classifiers is None


def test_the_critic_gets_the_estimator_s_maps_of_whole_faces_and_goes_on(teachers, features, tmp_path):
    network = PerceptualLoss(features)
    edges = build_critic(network).eval()  # in training, spectral norms move with every call
    save_file(edges.state_dict(), tmp_path / "critic.safetensors")
    whole = build_critic(network, teachers, str(tmp_path / "critic.safetensors")).eval()
    image = torch.rand(1, 3, 256, 256)
    maps = critic_maps(network.features(image))
    faces = estimator_maps(teachers, image)
    assert len(whole(maps + faces)) == len(edges.heads) + len(faces) == len(whole.heads)
    # Heads that were loaded score as they did; windows, which are no whole faces, get by without the rest.
    with torch.no_grad():
        for before, after in zip(edges(maps), whole(maps), strict=True):
            assert torch.equal(before, after)


def test_an_augmented_view_stays_within_crops_of_any_size():
    for seed in range(12):
        for size in (64, 256):
            images, shift = augmented_view(torch.rand(1, 3, size, size), torch.Generator().manual_seed(seed))
            assert images.shape == (1, 3, size, size)
            embed(build_resnet(WIDTHS, DIM).eval(), images, shift)


def test_without_a_recogniser_the_identity_encoder_is_alone(faces, teachers):
    condition = condition_on(faces, teachers, [6, 7])
    alone = FrozenTeachers(teachers.estimator, teachers.id_encoder)
    losses = condition_consistency(
        condition.batch.image, condition, vectors(2), alone, torch.Generator().manual_seed(2)
    )
    assert set(LOSS_WEIGHTS) - set(losses) == {
        "identity_recogniser",
        "source_recogniser",
        "similarity",
        "similarity_recogniser",
    }


def test_generated_faces_may_be_as_alike_as_their_targets_and_no_more():
    east, north, between = (torch.tensor([v]) for v in ([1.0, 0.0], [0.0, 1.0], [0.8, 0.6]))
    memory = SimilarityMemory(size=2)
    assert memory.loss(east, east) == 0  # nobody there yet
    assert memory.loss(north, north) == 0
    assert memory.loss(between, torch.tensor([[-1.0, 0.0]])) == pytest.approx(0.7)  # 0.8 and 0.6, of targets 0
    assert len(memory.generated) == 2  # the oldest is dropped
    assert memory.loss(between, between) == pytest.approx((1.0 + 0) / 2)  # like itself, and as alike as the targets


def test_faces_without_an_identity_stay_out_of_the_memory(faces, teachers):
    condition = condition_on(faces, teachers, [1, 2, 3])
    memories = {"similarity": SimilarityMemory(), "similarity_recogniser": SimilarityMemory()}
    for validity, joined in ((0.0, 0), (1.0, 3), (1.0, 6)):
        generated = condition.batch.image.clone().requires_grad_(True)
        generator = torch.Generator().manual_seed(2)
        losses = condition_consistency(generated, condition, vectors(3, validity), teachers, generator, memories)
        assert set(memories) <= set(losses)
        assert all(loss.isfinite() for loss in losses.values())
        assert len(memories["similarity"].generated) == len(memories["similarity_recogniser"].targets) == joined
    assert losses["similarity"] > 0  # the same faces once more, and other targets
    (gradient,) = torch.autograd.grad(losses["similarity"], generated)
    assert gradient.abs().max() > 0


def test_blotches_cost_beyond_what_people_differ_by():
    grey, inner = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    inner[..., 16:48, 16:48] = 1
    assert blotches(grey + 0.9 * GREY_TOLERANCE, grey, inner) == 0
    noise = torch.where(torch.arange(64) % 2 == 0, 0.9, -0.9).expand(1, 3, 64, 64)
    assert blotches(noise, grey, inner) < 1e-6  # detail is free
    dark, red, outside = grey.clone(), grey.clone(), grey.clone()
    dark[:, :, 16:32, 16:32] = -0.5
    red[:, 0, 16:32, 16:32] = 0.3
    outside[:, :, :16] = 0.9
    assert blotches(dark, grey, inner)[0] == pytest.approx((0.5 - GREY_TOLERANCE) / 4)  # one of four patches
    tints = (0.3 - TINT_TOLERANCE) + (0.15 - TINT_TOLERANCE)  # and a grey of 0.1 is free
    assert blotches(red, grey, inner)[0] == pytest.approx(tints / 4)
    assert blotches(outside, grey, inner) == 0
    glare = grey.clone()
    glare[:, :, 24:32, 24:32] = 0.4
    assert blotches(glare, grey, inner) == 0  # lost in a coarse patch
    assert blotches(glare, grey, inner, FINE_PATCH)[0] == pytest.approx((0.4 - GREY_TOLERANCE) / 16)


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


def test_colours_are_the_source_s_only_where_nobody_wears_anything(faces, teachers):
    batch = batch_of(faces, list(range(24)))
    condition = make_counterfactual(batch, faces, teachers.id_encoder, torch.Generator().manual_seed(1))
    worn = ((batch.attributes > 0.5) | (condition.batch.attributes > 0.5))[:, [GLASSES, FACIAL_HAIR]]
    tips = batch.landmarks[:, NOSE_TIP, 1].round().int()
    for plain, inner, (glasses, beard), tip in zip(
        condition.plain[:, 0], condition.inner[:, 0], worn, tips, strict=True
    ):
        above, below = (slice(0, tip - 1), glasses), (slice(tip + 1, None), beard)
        for rows, changed in (above, below):
            assert torch.equal(plain[rows], torch.zeros_like(plain[rows]) if changed else inner[rows])
    assert 0 < worn.float().mean() < 1


@pytest.mark.parametrize(("scale", "turn"), [(100.0, 0.0), (60.0, 0.4)])
def test_the_recogniser_gets_a_face_where_its_template_is(scale, turn):
    """Five dots on a black crop, turned and scaled, come to lie on the template."""
    cos, sin = np.cos(turn), np.sin(turn)
    five = (np.array(OMZ_TEMPLATE) - 0.5) @ np.array([[cos, sin], [-sin, cos]]) * scale + (130, 120)
    y, x = np.mgrid[:256, :256] + 0.5
    dots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in five)
    image = torch.tensor(dots, dtype=torch.float32)[None, None].expand(1, 3, -1, -1) * 2 - 1
    views = [
        recogniser_view(image, torch.tensor(five, dtype=torch.float32)[None], torch.Generator().manual_seed(seed))
        for seed in range(12)
    ]
    assert views[0].shape == (1, 3, RECOGNISER_SIDE, RECOGNISER_SIDE)
    mean = torch.stack(views).mean(0)[0, 0].numpy()
    columns, rows = np.round(np.array(OMZ_TEMPLATE).T * RECOGNISER_SIDE - 0.5).astype(int)
    around = [mean[max(r - 3, 0) : r + 4, c - 3 : c + 4].max() for r, c in zip(rows, columns, strict=True)]
    assert min(around) > 0.3 * mean.max()
    assert min(around) > 10 * np.median(mean)


def test_the_recogniser_gets_blue_first_in_0_to_255():
    image = torch.tensor([1.0, 0.0, -1.0])[None, :, None, None].expand(1, 3, 64, 64)
    five = torch.tensor(OMZ_TEMPLATE).float()[None] * 40 + 12
    view = recogniser_view(image, five, torch.Generator().manual_seed(0))
    assert view[0, :, 64, 64].tolist() == pytest.approx([0.0, 127.5, 255.0], abs=0.1)
