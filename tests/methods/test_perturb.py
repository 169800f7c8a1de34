"""Cloaked faces: how far a pixel may change, what counts as cloaked, and that it never passes for anonymized."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion import cli
from deid_diffusion.cli import run as run_command
from deid_diffusion.clip_result import TrackReport
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.methods import attack
from deid_diffusion.methods.recognisers import load_recogniser
from deid_diffusion.settings import Settings
from deid_diffusion.types import FaceReport, Outcome
from deid_diffusion.video import VideoAnonymizer
from tests.test_anonymizer import ALWAYS, ONE, build, covered, face, picture

PERTURB = Settings(method="perturb", max_change=8.0)


class Pooled(torch.nn.Module):
    """A recogniser of 4 x 4 mean colours, without their mean."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.adaptive_avg_pool2d(faces, 4).flatten(1)
        return found - found.mean(1, keepdim=True)


class Constant(torch.nn.Module):
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(faces), 8)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(attack, "STEPS", 6)


@pytest.fixture
def pooled(tmp_path) -> Path:
    torch.jit.script(Pooled()).save(str(tmp_path / "pooled.pt"))
    return tmp_path / "pooled.pt"


def smooth_picture(side: int = 240) -> np.ndarray:
    y, x = np.mgrid[:side, :320].astype(np.float32)
    waves = [120 + 60 * np.sin(x / 17 + k) * np.cos(y / (11 + k)) for k in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def test_a_cloaked_face_stays_within_its_bounds_and_says_what_it_is():
    image = smooth_picture()
    result = build(ONE)(image, settings=PERTURB)
    (found,) = result.faces
    assert found.outcome is Outcome.CLOAKED
    assert "identity encoder" in found.reason
    change = np.abs(result.image.astype(int) - image)
    assert 1 <= change.max() <= 8
    assert change[~result.changed_mask].max() == 0
    assert 0.02 < result.changed_mask.mean() < 0.6


def test_the_bound_holds_where_faces_overlap():
    image = smooth_picture()
    result = build([face(150, 100), face(170, 105)])(image, settings=PERTURB)
    assert [one.outcome for one in result.faces] == [Outcome.CLOAKED] * 2
    assert 1 <= np.abs(result.image.astype(int) - image).max() <= 8


def test_a_tighter_bound_on_ssim_makes_a_smaller_change():
    image, sizes = smooth_picture(), []
    for most in (0.5, 1e-4):
        result = build(ONE)(image, settings=replace(PERTURB, max_dssim=most))
        sizes.append(np.abs(result.image.astype(int) - image).sum())
    assert sizes[1] < 0.7 * sizes[0]


def levels(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def test_dssim_is_none_for_equal_pictures_and_grows_with_noise():
    one, weight = levels(smooth_picture()[:240, :240]), torch.ones(1, 1, 240, 240)
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    found = [attack.dssim(one, one + size * noise, weight) for size in (0.0, 4.0, 16.0)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[0] < found[1] < found[2] <= 1
    kept = attack.within_dssim(one, 16 * noise, weight, found[1])
    assert attack.dssim(one, one + kept, weight) <= found[1]
    assert kept.abs().max() > 1


def test_what_is_named_is_attacked_and_has_to_be_passed(pooled):
    image, spec = smooth_picture(), f"{pooled}:64:rgb"
    anonymize = build(ONE)
    analysis = anonymize.analyze(image, settings=PERTURB)
    net, (task,), cosine = load_recogniser(spec), analysis.tasks, {}
    for against in ((), (spec,)):
        (done,) = anonymize.generate(analysis.tasks, PERTURB, against=against)
        before, after = (net.embed(levels(one), task.crop.landmarks) for one in (task.crop.image, done.generated))
        cosine[against] = (before * after).sum().item()
    assert cosine[(spec,)] < cosine[()] - 1e-5
    assert "pooled " in done.reason
    hidden = build(ONE)(image, settings=replace(PERTURB, against=(f"{spec}:threshold=-1",)))
    assert hidden.faces[0].outcome is Outcome.REDACTED
    assert "by pooled, threshold -1" in hidden.faces[0].reason
    assert (hidden.image[100, 160] == 128).all()


def test_a_face_that_the_encoder_still_knows_is_hidden():
    image = picture()
    (found,) = (result := build(ONE, ALWAYS)(image, settings=PERTURB)).faces
    assert found.outcome is Outcome.REDACTED
    assert "not cloaked: similarity" in found.reason
    assert covered(image, result.image, ONE[0])


def test_a_change_that_is_lost_on_the_way_into_the_picture_is_found_out():
    anonymize, image = build(ONE), picture()
    analysis = anonymize.analyze(image, settings=PERTURB)
    # The method says cloaked, and changed nothing.
    lost = [task.decided(Outcome.CLOAKED, generated=task.crop.image) for task in analysis.tasks]
    result = anonymize.composite(analysis, lost, PERTURB, threshold=0.99)
    assert result.faces[0].outcome is Outcome.REDACTED
    assert "not cloaked in the picture: 1.00" in result.faces[0].reason
    assert covered(image, result.image, ONE[0])


def test_tiny_faces_are_hidden_with_the_reason():
    image = picture()
    (found,) = build([face(160, 100, 4)])(image, settings=PERTURB).faces
    assert found.outcome is Outcome.REDACTED
    assert "too small to be cloaked" in found.reason


def test_a_broken_recogniser_hides_the_face(monkeypatch):
    anonymize = build(ONE)
    analysis = anonymize.analyze(picture(), settings=PERTURB)
    monkeypatch.setattr(anonymize.pipeline.id_encoder, "forward", lambda *_: 1 / 0)
    (task,) = anonymize.generate(anonymize.choose_targets(analysis, settings=PERTURB), PERTURB)
    assert task.outcome is Outcome.FAILED
    assert "cloaking failed" in task.reason


@pytest.mark.parametrize("kind", ["grey", "grey16", "rgb16"])
def test_grey_and_deep_pictures_keep_what_they_are(tmp_path, kind):
    import tifffile

    base = smooth_picture()
    array = base if kind == "rgb16" else base[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", array if kind == "grey" else array.astype(np.uint16) * 257)
    result = build(ONE)(tmp_path / "a.tif", settings=PERTURB)
    result.save(tmp_path / "b.tif")
    before, after = tifffile.imread(tmp_path / "a.tif"), tifffile.imread(tmp_path / "b.tif")
    assert result.faces[0].outcome is Outcome.CLOAKED
    assert (before.shape, before.dtype) == (after.shape, after.dtype)
    step = 257 if after.dtype == np.uint16 else 1
    assert 1 <= np.abs(after.astype(int) - before).max() / step <= 8.5
    assert load_picture(tmp_path / "b.tif").image.shape == base.shape


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.pt", "found none"),
        ("net.onnx", "perturb needs gradients, and an ONNX file gives none"),
        ("text.pt:112", "wanted a TorchScript recogniser"),
        ("constant.pt:64:rgb", "takes (1, 3, 64, 64) and has gradients, got:"),
        ("pooled.pt:64:xyz", "template must be one of arcface, omz"),
        ("dlib", "must be"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_is_done(tmp_path, pooled, monkeypatch, capsys, name, said):
    (tmp_path / "text.pt").write_text("no network")
    (tmp_path / "net.onnx").write_bytes(b"")
    torch.jit.script(Constant()).save(str(tmp_path / "constant.pt"))
    Image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(run_command, "_load", lambda options: build(ONE))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "a.png", "--method", "perturb", "--against", name]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a_anon.png").exists()


@pytest.mark.parametrize("changes", [{"max_change": 0}, {"max_change": 65}, {"max_dssim": 0}, {"against": "net.pt"}])
def test_settings_out_of_range(changes):
    with pytest.raises(ValueError, match=r"max_change|against"):
        Settings(**changes)


def test_a_run_of_it_says_that_it_is_no_anonymization(tmp_path, monkeypatch, capsys):
    Image.fromarray(smooth_picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(run_command, "_load", lambda options: build(ONE))
    report = tmp_path / "report.json"
    assert cli.main(["run", str(tmp_path / "a.png"), "--method", "perturb", "--report", str(report)]) == 3
    said = capsys.readouterr()
    assert "1 face: 1 cloaked" in said.out
    assert "This is no anonymization" in said.err
    told = json.loads(report.read_text())
    assert "no anonymization" in told["warning"]
    assert told["faces"][0]["outcome"] == "cloaked"


def test_it_never_counts_as_replaced():
    task = FaceTask(ONE[0], 0).decided(Outcome.CLOAKED)
    assert not task.hidden
    track = TrackReport(0, FaceReport(ONE[0], Outcome.REPLACED, 0), 0.0)
    track.outcomes.update([Outcome.REPLACED, Outcome.CLOAKED, Outcome.REDACTED])
    assert track.outcome is Outcome.CLOAKED


def test_clips_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="perturb changes pictures one by one"):
        next(VideoAnonymizer(build(ONE)).stream([picture()], settings=PERTURB))
    (tmp_path / "a.mp4").write_bytes(b"")
    assert cli.main(["run", str(tmp_path / "a.mp4"), "--method", "perturb"]) == 2
    assert "is for pictures" in capsys.readouterr().err
