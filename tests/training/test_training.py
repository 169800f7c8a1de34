"""Each training script: overfits one batch in a few steps, writes what the public entry points load, and resumes."""

import copy
import importlib
import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from skimage.data import astronaut

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.faces.attribute_classifiers import AttributeClassifiers
from deid_diffusion.faces.estimator import OUTPUTS, FaceEstimator
from deid_diffusion.faces.face_shape import Placement, rotation_from_angles
from deid_diffusion.methods.identity_bank import IdentityBank
from deid_diffusion.pipelines.conditioning import (
    ATTRIBUTE_NAMES,
    attribute_vector,
    condition_vector,
    first_attributes,
    fold,
)
from deid_diffusion.pipelines.precondition import SIGMA_DATA
from deid_diffusion.training import all as training_all
from deid_diffusion.training import (
    apertures,
    blend,
    distill,
    estimator,
    estimator_head,
    filter_bank,
    id_encoder,
    inpaint,
    sample_grid,
)
from deid_diffusion.training.adversarial import MAPS, build_critic
from deid_diffusion.training.critic import Critic, critic_loss, generator_loss
from deid_diffusion.training.data import Jitter, augmented_batch, load_faces, noise_like
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.masks import BROWS, foreheads, inner_faces, random_masks
from deid_diffusion.training.muon import Muon, orthogonalised
from deid_diffusion.training.resnet import build_resnet
from deid_diffusion.training.run import RunOptions, begin, build_optimiser, integers, parse_options, run_training
from deid_diffusion.training.shards import Shards
from deid_diffusion.weight_files import write_hashes
from tests.tiny import tiny_shape

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PEOPLE = 12


def webp(picture: np.ndarray, side: int = 256) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).resize((side, side)).save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Crops of one face in many colours, in the format of the training data: tar of WebP and labels."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    base = Image.fromarray(astronaut()[0:230, 110:340]).resize((256, 256))
    truth, landmarks, keys = tiny_shape(), [], []
    with tarfile.open(folder / "synthetic-00.tar", "w") as tar:
        for n in range(PEOPLE):
            key = f"{n:05d}"
            tint = np.asarray(base) * rng.uniform(0.5, 1, 3)
            picture = webp(tint)
            entry = tarfile.TarInfo(f"{key}.webp")
            entry.size = len(picture)
            tar.addfile(entry, io.BytesIO(picture))
            place = Placement(60.0, rotation_from_angles(*rng.normal(0, 5, 3)), np.array([128.0, 112, 0]))
            landmarks.append(place.place(truth.mean + 0.01 * rng.normal(size=(478, 3))))
            keys.append(key)
    embedding = rng.normal(size=(PEOPLE, 256))
    np.savez(
        folder / "synthetic.npz", key=np.array(keys), source=np.full(PEOPLE, "sfhq"),
        landmarks=np.stack(landmarks).astype(np.float16), embedding=embedding.astype(np.float16),
        age=rng.uniform(20, 60, PEOPLE).astype(np.float16), male=rng.uniform(size=PEOPLE).astype(np.float16),
        expression=rng.dirichlet(np.ones(7), PEOPLE).astype(np.float16),
        split=np.array(["holdout"] * 4 + ["train"] * 8),
    )  # fmt: skip
    return str(folder)


def test_data_follow_their_pixels_under_augmentation(data):
    faces = load_faces(data)
    assert faces.images.shape == (PEOPLE, 3, 256, 256)
    generator = torch.Generator().manual_seed(0)
    still = Jitter(zoom=0, turn_deg=0, shift=0, colour=0, degrade=0)
    batch = augmented_batch(faces, torch.arange(4), still, generator)
    original = faces.images[:4].float() / 127.5 - 1
    for n in range(4):
        flipped = not torch.allclose(batch.image[n], original[n], atol=0.05)
        want = original[n].flip(-1) if flipped else original[n]
        assert torch.allclose(batch.image[n], want, atol=0.05)
        iris = faces.landmarks[n, 468, 0]
        assert batch.landmarks[n, 473 if flipped else 468, 0] == pytest.approx(float(256 - iris if flipped else iris))
    turned = augmented_batch(
        faces, torch.zeros(16, dtype=torch.int64), Jitter(zoom=0, turn_deg=20, shift=0), generator
    )
    eyes = turned.landmarks[:, 473, :2] - turned.landmarks[:, 468, :2]
    seen = torch.rad2deg(torch.atan2(eyes[:, 1], eyes[:, 0]))
    said = turned.attributes[:, ATTRIBUTE_NAMES.index("roll_deg")]
    # The two differ by the roll that the fitted pose and the line of the eyes disagree on, mirrored or not.
    assert (seen - said).abs().max() < 6
    assert seen.abs().max() > 12


def test_the_holdout_is_never_drawn_for_training(data):
    faces = load_faces(data)
    generator = torch.Generator().manual_seed(0)
    assert set(faces.draw(200, generator).tolist()) == set(range(4, PEOPLE))
    assert set(faces.draw(200, generator, train=False).tolist()) == set(range(4))


def test_masks_cover_every_landmark(data):
    landmarks = load_faces(data).landmarks
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        masks = random_masks(landmarks, 256, generator)
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        for mask, points in zip(masks[:, 0], landmarks[:, :, :2].long().clamp(0, 255), strict=True):
            assert mask[points[:, 1], points[:, 0]].all()


def test_inner_faces_end_at_the_brows_and_before_the_outline():
    points = torch.tensor(tiny_shape().mean)[None].float() * 45 + torch.tensor([128.0, 110.0, 0.0])
    [[inner]] = inner_faces(points, 256)
    x, y = points[0, :, :2].round().long().T
    for number in (1, 61, 291, 468, 473, 13, 14):  # nose tip, mouth, irises
        assert inner[y[number], x[number]] == 1
    highest = points[0, list(BROWS), 1].min()
    assert inner[: int(highest) - 15].max() == 0
    assert inner[y[105], x[105]] > 0.5
    [[above]] = foreheads(points, 256)
    assert above[int(highest) - 15].min() == 1
    assert above[int(highest) :].max() == 0
    outline = torch.arange(478)[(x < x.min() + 2) | (x > x.max() - 2)]
    assert inner[y[outline], x[outline]].max() < 0.5


def test_missing_data_says_what_was_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold synthetic-00.tar"):
        load_faces(tmp_path)


def overfit(loss_of, module, steps: int, lr: float) -> tuple[float, float]:
    optimiser = torch.optim.AdamW(module.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = loss_of()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss))
    return losses[0], float(np.mean(losses[-3:]))


def test_every_model_overfits_one_batch(data):
    torch.manual_seed(0)
    faces, generator = load_faces(data), torch.Generator().manual_seed(0)
    batch = augmented_batch(faces, torch.arange(4, 8), Jitter(size=128), generator)
    network = build_resnet((8, 16, 16, 16), OUTPUTS)
    estimator.start_at_mean_face(network, faces)
    first, last = overfit(lambda: estimator.estimator_loss(network(batch.image).logits, batch), network, 30, 3e-3)
    assert last < 0.7 * first
    recogniser = build_resnet((8, 16, 16, 32), 256)
    first, last = overfit(lambda: id_encoder.id_encoder_loss(recogniser, batch), recogniser, 30, 3e-3)
    assert last < 0.7 * first
    unet = inpaint.build_unet((32, 32, 32, 32), 1)
    whole = augmented_batch(faces, torch.arange(4, 6), Jitter(), generator)
    options = inpaint.Options(window=128)

    def fixed() -> torch.Tensor:
        return inpaint.inpaint_loss(unet, whole, options, None, torch.Generator().manual_seed(7))

    first, last = overfit(fixed, unet, 30, 2e-3)
    assert last < 0.6 * first


def test_a_critic_learns_to_tell_and_the_generator_to_please_it(features):
    torch.manual_seed(0)
    network = PerceptualLoss(features)
    critic = build_critic(network)
    real, generated = torch.rand(4, 3, 64, 64), torch.zeros(4, 3, 64, 64, requires_grad=True)
    mask = torch.zeros(4, 1, 64, 64)
    mask[:, :, 16:48, 16:48] = 1

    def seen(image: torch.Tensor) -> list[torch.Tensor]:
        return [network.features(image)[number] for number in MAPS]

    first, last = overfit(
        lambda: critic_loss(critic(seen(real)), critic(seen(generated.detach())), mask), critic, 40, 0.01
    )
    assert last < 0.8 * first  # a critic that cannot tell stays at 2
    critic.zero_grad()
    before = generator_loss(critic, seen(generated), mask)
    before.backward()
    assert all(weight.grad is None for weight in critic.parameters())
    moved = generated.detach() - 0.2 * generated.grad / generated.grad.abs().max()
    assert generator_loss(critic, seen(moved), mask) < before


def test_a_generator_overfits_what_it_samples_itself(data, features):
    torch.manual_seed(0)
    faces, network = load_faces(data), PerceptualLoss(features)
    batch = augmented_batch(faces, torch.arange(4, 6), Jitter(size=128, degrade=0.0), torch.Generator().manual_seed(0))
    unet = inpaint.build_unet((32, 32, 32, 32), 1)
    options = distill.Options(critic_weight=0.0, colour_weight=1.0, student_steps=2)

    def loss() -> torch.Tensor:
        return distill.Losses(options, network).on_rollout(unet, None, batch, torch.Generator().manual_seed(7))

    first, last = overfit(loss, unet, 30, 2e-3)
    assert last < 0.6 * first


def test_a_perfect_teacher_ends_at_the_clean_crop():
    examples = inpaint.Examples(
        torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64), torch.zeros(2, 76, 16, 16), torch.zeros(2, 1)
    )

    def perfect(inputs, level, _, class_labels, return_dict):
        return (fold(examples.x0 / SIGMA_DATA, 4),)

    t = torch.tensor([1.0, 0.4])
    x_t = inpaint.noised(examples.x0, t, torch.Generator().manual_seed(0))
    for steps in (1, 4):
        assert torch.allclose(distill.teacher_target(perfect, x_t, t, examples, steps), examples.x0, atol=1e-5)


def test_noise_levels_of_the_student_start_at_pure_noise():
    drawn = distill.sample_noise_levels(distill.Options(student_steps=4), 4000, torch.Generator().manual_seed(0))
    assert 0 < drawn.min()
    assert drawn.max() == 1
    assert 0.2 < (drawn == 1).float().mean() < 0.3


def weight_of(run: str) -> torch.Tensor:
    return UNet2DConditionModel.from_pretrained(f"{run}/unet", dtype=torch.float32).conv_in.weight.detach()


def test_six_commands_train_and_resume_and_blend(data, features, tmp_path):
    names = ("estimator", "apertures", "id_encoder", "inpaint", "first", "distill")
    runs = {name: str(tmp_path / name) for name in names}
    common = ["--data", data, "--steps", "2", "--minutes", "5", "--batch", "2"]
    estimator.main([*common, "--out", runs["estimator"], "--widths", "8,8,8,8"])
    apertures.main([*common[:-2], "--batch", "6", "--out", runs["apertures"], "--widths", "8,8", "--moves", "1"])
    id_encoder.main([*common, "--out", runs["id_encoder"], "--widths", "8,8,8,8"])
    small = [*common, "--out", runs["inpaint"], "--channels", "32,32,32,32", "--window", "128"]
    inpaint.main(small)
    inpaint.main([*small, "--resume"])
    assert json.loads((tmp_path / "inpaint" / "training.json").read_text())["step"] == 4
    drawn = tmp_path / "grids" / "samples.png"
    sample_grid.main(["--data", data, "--model", f"{runs['inpaint']}/training.ckpt", "--out", str(drawn),
                      "--faces", "2", "--seeds", "1", "--steps", "1"])  # fmt: skip
    assert Image.open(drawn).size == (2 * 256, 3 * 256)
    few = [*common, "--start", f"{runs['inpaint']}/unet", "--out", runs["distill"], "--window", "128",
           "--perceptual", features, "--student-steps", "2", "--teacher-steps", "2"]  # fmt: skip
    distill.main([*few, "--out", runs["first"], "--rollout-batch", "0"])
    with pytest.raises(ValueError, match="--keep-batch needs"):
        distill.main([*few, "--keep-batch", "2"])
    with pytest.raises(ValueError, match="go together"):
        distill.main([*few, "--estimator", runs["estimator"]])
    with pytest.raises(ValueError, match="another critic"):
        distill.main([*few, "--critic", f"{runs['inpaint']}/unet/diffusion_pytorch_model.safetensors"])
    few += ["--teacher-steps", "0", "--estimator", runs["estimator"], "--id-encoder", runs["id_encoder"],
            "--critic", f"{runs['first']}/critic.safetensors"]  # fmt: skip
    distill.main(few)
    distill.main([*few, "--resume"])
    assert json.loads((tmp_path / "distill" / "training.json").read_text())["step"] == 4
    distill.main([*few[:-2], "--critic-weight", "0", "--keep-batch", "2", "--least-noise", "0.6", "--steps", "1",
                  "--out", str(tmp_path / "kept")])  # fmt: skip
    assert not torch.equal(weight_of(tmp_path / "kept"), weight_of(runs["inpaint"]))
    blended = str(tmp_path / "blend")
    blend.main(["--before", runs["inpaint"], "--after", runs["distill"], "--share", "0.25", "--out", blended])
    middle, *ends = (weight_of(path) for path in (blended, runs["inpaint"], runs["distill"]))
    assert torch.allclose(middle, 0.75 * ends[0] + 0.25 * ends[1], atol=2e-3)
    assert not torch.allclose(ends[0], ends[1], atol=1e-6)
    with pytest.raises(ValueError, match="must lie in"):
        blend.main(["--share", "2"])
    for wrong in ("glasses", "hat=2", "glasses=0"):
        with pytest.raises(ValueError, match="--emphasise"):
            blend.main(["--before", runs["inpaint"], "--after", runs["distill"], "--emphasise", wrong])


def test_the_whole_chain_makes_weights_that_the_anonymizer_loads(data, features, tmp_path, monkeypatch):
    faces, out = tmp_path / "faces", tmp_path / "weights"
    shutil.copytree(data, faces)
    table = (faces / "synthetic.npz").read_bytes()
    labels = dict(np.load(io.BytesIO(table)))
    large = [(key, webp(astronaut()[0:230, 110:340], 512)) for key in labels["key"][:5].tolist()]
    labels = {name: labels[name][:5] for name in ("key", "split", "landmarks")}
    Shards(faces).add(
        {"": [], "512": large}, labels | {"attributes": np.full((5, len(ATTRIBUTE_NAMES)), np.nan, "f4")}
    )
    (faces / "synthetic.npz").write_bytes(table)  # of all crops, not only of those with a large one
    AttributeClassifiers({"glasses": torch.zeros(1585)}).save(tmp_path / "labels.safetensors")
    keys = np.load(io.BytesIO(table))["key"]
    np.savez(tmp_path / "labels.npz", key=keys, glasses=np.zeros(len(keys), np.float32))
    words = ["--data", str(faces), "--runs", str(tmp_path / "runs"), "--out", str(out), "--perceptual", features,
             "--labels", str(tmp_path / "labels.npz"), "--steps", "2", "--batch", "2", "--widths", "8,8,8,8",
             "--channels", "32,32,32,32", "--identities", "6", "--no-filter", "--backend", "torch"]  # fmt: skip
    whole = training_all.import_module
    monkeypatch.setattr(training_all, "import_module", lambda name: 1 / 0 if name.endswith("distill") else whole(name))
    with pytest.raises(ZeroDivisionError):
        training_all.main(words)
    monkeypatch.setattr(training_all, "import_module", whole)
    ran = training_all.train(parse_options(training_all.Options, words, ""))["ran"]
    assert ran == ["distill", "pack", "detail_pairs", "detail", "pack with detail"]  # and nothing twice
    anonymize = FaceAnonymizer.from_pretrained(out / "face256", estimator=out / "face_estimator", backend="torch")
    assert anonymize.size == 512
    assert anonymize.hashes["identities.safetensors"]
    assert len(anonymize.bank.embedding) == len(anonymize.bank.appearance) == 6
    assert set(anonymize.estimator.classifiers.weights) == {"glasses"}
    assert anonymize.estimator.apertures.network.config.num_labels == 2
    assert float(anonymize.estimator.ood.ood_score(anonymize.estimator.states(torch.zeros(1, 3, 256, 256)))) > 0
    assert str(tmp_path) not in "".join(path.read_text() for path in (out / "face256").rglob("config.json"))
    assert "attribute_classifiers.safetensors" in (out / "face_estimator" / "SHA256SUMS").read_text()
    assert anonymize.estimator.landmarks(np.zeros((1, 256, 256, 3), np.uint8)).shape == (1, 478, 3)
    assert anonymize(astronaut(), seed=0).faces[0].outcome is not None


def test_an_older_unet_learns_new_attributes_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(inpaint, "FIELDS", dict(list(inpaint.FIELDS.items())[:18]))
    old = inpaint.build_unet((32, 32, 32, 32), 1).eval()
    monkeypatch.undo()
    old.save_pretrained(tmp_path)
    new = inpaint.load_unet(tmp_path).eval()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, old.config.in_channels, 16, 16, generator=generator)
    vector = torch.randn(2, new.config.projection_class_embeddings_input_dim, generator=generator)
    asked, rest = vector.split([2 * len(ATTRIBUTE_NAMES), vector.shape[1] - 2 * len(ATTRIBUTE_NAMES)], 1)
    with torch.no_grad():
        before = old(noise, 500, None, class_labels=torch.cat([first_attributes(asked, 18), rest], 1)).sample
        after = new(noise, 500, None, class_labels=vector).sample
    assert torch.allclose(before, after, atol=1e-5)
    new.save_pretrained(tmp_path / "again")
    assert inpaint.load_unet(tmp_path / "again").class_embedding.linear_1.in_features == vector.shape[1]


def test_filtering_drops_exactly_the_identities_with_furrows(data, weights, tmp_path):
    shipped, weights, few = weights, tmp_path / "weights", 6
    for name in ("face256", "face_estimator"):
        shutil.copytree(shipped / name, weights / name)
    full = IdentityBank.load(weights / "face256" / "identities.safetensors")
    alike = full.attributes[:1].repeat(few, 0)  # one group, of which 5 of 6 may be dropped
    IdentityBank(full.embedding[:few], full.shape_params[:few], alike).save(
        weights / "face256" / "identities.safetensors"
    )
    write_hashes(weights / "face256")
    anonymize = FaceAnonymizer.from_pretrained(weights / "face256", estimator=weights / "face_estimator")
    photos = filter_bank.pick_photos(anonymize, load_faces(data), 2)
    assert len(photos) == 2
    rough = filter_bank.measure_furrows(anonymize, photos[:1], [(n, 0) for n in range(few)])
    assert rough.min() > 0
    assert np.ptp(rough) > 0
    asked = ["--data", data, "--weights", str(weights), "--photos", "1", "--photos-each", "1"]
    with pytest.raises(ValueError, match="must lie in"):
        filter_bank.main([*asked, "--max-share", "1"])
    one = filter_bank.pick_photos(anonymize, load_faces(data), 1)
    rough = filter_bank.measure_furrows(anonymize, one, [(n, 0) for n in range(few)])
    most = float(np.sort(rough)[2:4].mean())
    out = filter_bank.select_dropped(rough, filter_bank.demographic_groups(anonymize.bank.attributes), most, 0.9)
    assert 0 < out.sum() < few
    filter_bank.main([*asked, "--max-furrows", str(most), "--max-share", "0.9"])
    left = FaceAnonymizer.from_pretrained(weights / "face256", estimator=weights / "face_estimator").bank
    assert np.allclose(left.embedding, anonymize.bank.embedding[~out], atol=1e-3)
    record = json.loads((weights / "face256" / filter_bank.RECORD).read_text())
    assert (record["evaluated"], record["kept"]) == (few, len(left.embedding))


def test_no_group_loses_more_than_its_share_and_nobody_below_the_threshold():
    group = np.repeat([0, 1, 2], [10, 10, 4])
    rough = np.concatenate([np.arange(10), np.full(10, 9.0), np.zeros(4)])
    out = filter_bank.select_dropped(rough, group, max_furrows=7.5, max_share=0.3)
    assert np.nonzero(out[:10])[0].tolist() == [8, 9]  # 7 is among the worst three, and below the threshold
    assert out[10:20].sum() == 3
    assert not out[20:].any()


def test_groups_are_by_age_skin_and_gender():
    rows = [[age, male, skin, 0, 0] for age in (20, 40, 60) for skin in (40, 55, 70) for male in (0, 1)]
    assert sorted(filter_bank.demographic_groups(np.array(rows, float)).tolist()) == list(range(18))


def test_options_become_flags_and_wrong_ones_exit_2(capsys):
    options = parse_options(inpaint.Options, ["--final-lr", "0.5", "--resume", "--channels", "8,8"], "x")
    assert (options.final_lr, options.resume, options.channels) == (0.5, True, "8,8")
    with pytest.raises(SystemExit) as stop:
        parse_options(inpaint.Options, ["--minutes", "soon"], "x")
    assert stop.value.code == 2
    assert "--minutes" in capsys.readouterr().err


HOW_TO = (Path(__file__).parents[2] / "docs/how-to/training.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^deid train (.+?) *(?:#.*)?$", HOW_TO, re.MULTILINE)


def test_the_training_page_shows_the_commands():
    assert {"inpaint", "distill", "pack"} <= {line.split()[0] for line in COMMANDS}  # else the next test tests nothing


@pytest.mark.parametrize("line", COMMANDS)
def test_the_training_page_s_commands_have_these_options(line):
    name, *words = line.split()
    command = importlib.import_module(f"deid_diffusion.training.{name}")
    assert isinstance(parse_options(command.Options, words, "x"), command.Options)  # else it exits with code 2


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert 0.6 < values.min()
    assert values.max() < 1.3
    assert (orthogonalised(matrix) * matrix).sum() > 0  # the same way, not another


def test_matrices_that_are_made_orthogonal_together_come_out_as_alone():
    together = (
        torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 10])[:, None, None]
    )
    for one, alone in zip(orthogonalised(together), map(orthogonalised, together), strict=True):
        assert torch.allclose(one, alone, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_noise_is_drawn_where_the_pictures_are_and_follows_the_seed(device):
    images = torch.zeros(4, 3, 32, 32, device=device)
    first, again = (noise_like(images, torch.Generator().manual_seed(5)) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    follow = [noise_like(images, generator) for _ in range(2)]
    assert first.device == images.device
    assert torch.equal(first, again)
    assert torch.equal(first, follow[0])
    assert not torch.allclose(*follow)
    assert float(first.std()) == pytest.approx(1, abs=0.05)


def test_a_critic_is_as_exact_under_autocast_as_without():
    critic = Critic((8, 16)).eval()
    maps, image = [torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)], torch.randn(2, 3, 32, 32).clamp(-1, 1)
    plain = critic(maps, image)
    with torch.autocast("cpu", torch.bfloat16):
        seen = critic(maps, image)
    for one, other in zip(plain, seen, strict=True):
        assert other.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-6)


def test_muon_fits_a_small_network_and_resumes_where_it_was():
    def run(steps, state=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(2, 8, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(72, 1)
        )
        optimiser = Muon(model.parameters(), lr=0.02, weight_decay=0.0)
        if state:
            model.load_state_dict(state[0])
            optimiser.load_state_dict(state[1])
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(16, 2, 5, 5, generator=generator)
        y = torch.randn(16, 1, generator=generator)
        for _ in range(steps):
            loss = (model(x) - y).pow(2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss.detach()), (copy.deepcopy(model.state_dict()), optimiser.state_dict())

    first, _ = run(1)
    whole, _ = run(80)
    _, half = run(40)
    resumed, _ = run(40, half)
    assert whole < first / 20
    assert resumed == pytest.approx(whole, rel=1e-4)


def test_averaged_weights_and_statistics_are_what_is_left(tmp_path):
    """After n steps the average keeps (1 + n) / (10 + n) of itself, --ema at most, in buffers as in weights."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    states: list[dict[str, torch.Tensor]] = []

    def loss_of(model: torch.nn.Module, generator: torch.Generator, step: int) -> torch.Tensor:
        states.append(copy.deepcopy(model.state_dict()))
        return (model(torch.randn(8, 4, generator=generator)) - 1).square().mean()

    options = RunOptions(out=str(tmp_path), steps=6, minutes=5, ema=0.3, lr=0.5)
    run_training(module, loss_of, options, begin(options))
    checkpoint = tmp_path / "training.ckpt"
    _, first, *others = [*states, torch.load(checkpoint, weights_only=True)["module"]]
    wanted = first
    for n, state in enumerate(others, 1):
        kept = min(0.3, (1 + n) / (10 + n))
        wanted = {name: kept * wanted[name] + (1 - kept) * value for name, value in state.items()}
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        assert torch.allclose(module.state_dict()[name], wanted[name], atol=1e-6), name
        assert not torch.allclose(wanted[name], others[-1][name], atol=1e-3), name
    again = copy.deepcopy(module)
    resumed = RunOptions(out=str(tmp_path), steps=0, minutes=0, resume=True)
    assert run_training(again, loss_of, resumed, begin(resumed))["step"] == 6
    for name in wanted:
        assert torch.equal(again.state_dict()[name], module.state_dict()[name]), name


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    torch.save({"module": {}, "optimiser": {}, "average": {}, "done": {}}, tmp_path / "training.ckpt")
    options = RunOptions(out=str(tmp_path), resume=True)
    with pytest.raises(ValueError, match="must hold module, optimiser, ema, done, got .*; start without --resume"):
        run_training(torch.nn.Linear(1, 1), lambda *_: None, options, begin(options))


@pytest.mark.parametrize("text", ["8,", "8;8", "wide"])
def test_widths_that_are_no_numbers_are_refused(text):
    with pytest.raises(ValueError, match="wanted whole numbers with commas"):
        integers(text)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="--optimiser must be one of adamw, muon"):
        build_optimiser(torch.nn.Linear(1, 1), RunOptions(optimiser="sgd"))


@pytest.fixture(scope="module")
def worn(data, tmp_path_factory) -> str:
    """Labels of glasses for two thirds of the crops, of facial hair for none."""
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    np.savez(path, key=[f"{n:05d}" for n in range(8)], glasses=np.arange(8) % 2)
    return str(path)


def test_attributes_without_a_label_have_no_gradient(data, worn):
    torch.manual_seed(0)
    faces, generator = load_faces(data, labels=worn), torch.Generator().manual_seed(0)
    batch = augmented_batch(faces, torch.arange(PEOPLE), Jitter(size=128), generator)
    network = build_resnet((8, 8, 8, 8), OUTPUTS)
    estimator.estimator_loss(network(batch.image).logits, batch).backward()
    gradient = network.classifier[-1].bias.grad
    assert torch.isfinite(gradient).all()
    assert gradient[-2].abs() > 0
    assert gradient[-1] == 0


def test_a_head_learns_something_new_on_a_trunk_that_stays(data, worn, tmp_path):
    torch.manual_seed(0)
    old = build_resnet((8, 8, 8, 8), OUTPUTS)
    estimator.start_at_mean_face(old, load_faces(data))
    old.classifier[-1] = torch.nn.Linear(8, 1443)
    old.config.num_labels = 1443
    old.save_pretrained(tmp_path / "old" / "network")
    load_faces(data).shape.save(tmp_path / "old" / "face_shape.safetensors")
    with pytest.raises(ValueError, match="gives 1443 numbers a face, wanted 1445"):
        FaceEstimator.from_pretrained(tmp_path / "old")
    folders = ["--start", str(tmp_path / "old" / "network"), "--out", str(tmp_path / "new")]
    sizes = ["--pool", "10", "--steps", "30", "--minutes", "5", "--batch", "8", "--lr", "1e-2"]
    estimator_head.main(["--data", data, "--labels", worn, *folders, *sizes])
    metrics = json.loads((tmp_path / "new" / "training.json").read_text())
    assert metrics["landmark_error_percent"] < metrics["before"]["landmark_error_percent"]
    new = FaceEstimator.from_pretrained(tmp_path / "new").network.state_dict()
    kept = [name for name in new if "stages.3" not in name and "classifier" not in name]
    assert all(torch.allclose(new[name].float(), old.state_dict()[name].float(), atol=1e-3) for name in kept)


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    """torchrun alone joins nobody on a CPU: every process would train for itself, into one checkpoint."""
    assert begin(RunOptions()).num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, accelerate joined 1"):
        begin(RunOptions())


def test_an_emphasised_attribute_has_more_effect_when_there_and_as_before_when_not():
    given = [{"glasses": 0.0, "age": 30}, {"glasses": 1.0, "age": 30}, {"age": 30}]
    vector = condition_vector(attribute_vector(given), None, 8)
    weight = torch.randn(5, vector.shape[1], generator=torch.Generator().manual_seed(0))
    before, after = vector @ weight.T, vector @ blend.emphasised(weight, "glasses", 2.0).T
    assert torch.allclose(after[[0, 2]], before[[0, 2]], atol=1e-5)
    assert torch.allclose(after[1] - after[0], 2 * (before[1] - before[0]), atol=1e-5)


def test_an_emphasised_identity_has_more_effect_and_none_as_before():
    attributes, person = attribute_vector([{"age": 30}, {"age": 30}]), torch.randn(2, 8)
    weight = torch.randn(5, 2 * len(ATTRIBUTE_NAMES) + 9, generator=torch.Generator().manual_seed(0))
    named, nobody = condition_vector(attributes, person, 8), condition_vector(attributes, None, 8)
    louder = blend.emphasised(weight, "identity", 1.5)
    assert torch.allclose(nobody @ louder.T, nobody @ weight.T, atol=1e-5)
    first, second = (named @ w.T for w in (weight, louder))
    assert torch.allclose(second[1] - second[0], 1.5 * (first[1] - first[0]), atol=1e-4)


def test_an_emphasised_angle_has_more_effect_to_both_sides():
    given = [{"pitch_deg": -15.0}, {"pitch_deg": 0.0}, {"pitch_deg": 15.0}, {}]
    vector = condition_vector(attribute_vector(given), None, 8)
    weight = torch.randn(5, vector.shape[1], generator=torch.Generator().manual_seed(0))
    before, after = vector @ weight.T, vector @ blend.emphasised(weight, "pitch_deg", 1.5).T
    assert torch.allclose(after[[1, 3]], before[[1, 3]], atol=1e-5)
    for side in (0, 2):
        assert torch.allclose(after[side] - after[1], 1.5 * (before[side] - before[1]), atol=1e-5)
