"""The embedded model runs without diffusers where it can, gives the same pictures, and is whole on demand."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.faces.network import ResNet, load_network, load_resnet
from deid_diffusion.models.flow_schedule import FlowSchedule
from deid_diffusion.models.quick import QuickPipeline
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.weight_files import write_hashes
from tests.tiny import tiny_bank, tiny_pipeline

HEAVY = {"accelerate", "diffusers", "gradio", "huggingface_hub", "ray", "scipy", "sympy", "tensorflow", "transformers"}
COMMAND = """
import sys
from deid_diffusion.cli import main
code = main(sys.argv[1:])
print("HEAVY", sorted({name.split(".")[0] for name in sys.modules} & set(%r)), "torch" in sys.modules)
raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights) -> Path:
    """A tiny face256, whose graph an earlier run left in the cache."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime; pip install onnxruntime onnx")
    place = tmp_path_factory.mktemp("face") / "tiny"
    tiny_pipeline(64).save_pretrained(place)
    bank = tiny_bank()
    shapes = np.zeros((len(bank.embedding), 24), np.float32)  # as the shipped estimator has them
    replace(bank, shape_params=shapes).save(place / "identities.safetensors")
    (place / "thresholds.json").write_text(json.dumps({"far_0.001": 1.1, "far_0.01": 1.1, "far_0.05": 1.1}))
    write_hashes(place)
    assert not isinstance(FaceAnonymizer.from_pretrained(place)._pipeline, QuickPipeline)
    return place


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-c", COMMAND % HEAVY, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_help_imports_nothing_heavy():
    assert command("--help") == "HEAVY [] False"


def test_a_picture_is_done_without_diffusers(folder, astronaut, tmp_path):
    Image.fromarray(astronaut[:256, 96:352]).save(tmp_path / "photo.png")
    words = ["--model", str(folder), "-o", str(tmp_path / "out.png"), "--report", str(tmp_path / "report.json")]
    assert command("run", str(tmp_path / "photo.png"), *words) == "HEAVY [] True"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [face["outcome"] for face in report["faces"]] == ["replaced"]
    assert report["versions"]["checkpoint"]["backend"].startswith("onnxruntime ")


def test_the_pictures_are_those_of_the_diffusers_pipeline(folder, astronaut):
    photo = astronaut[:256, 96:352]
    quick, whole = FaceAnonymizer.from_pretrained(folder), FaceAnonymizer.from_pretrained(folder)
    assert isinstance(quick._pipeline, QuickPipeline)
    assert isinstance(whole.pipeline, DiffusionPipeline)
    assert whole.pipeline is whole.context(quick.resolve(), None, None).pipeline
    faces = quick.detect(photo)
    for changes in ({"method": "swap"}, {"repulsion": Repulsion(through_unet=True)}):
        one, other = (anonymize(photo, seed=3, boxes=faces, **changes) for anonymize in (quick, whole))
        assert [face.outcome.value for face in one.faces] == ["replaced"]
        assert np.array_equal(one.image, other.image)


@pytest.mark.parametrize(
    "asked", [{"backend": "torch"}, {"dtype": "bfloat16"}, {"scheduler": FlowMatchEulerDiscreteScheduler(shift=2.0)}]
)
def test_what_it_cannot_do_is_left_to_diffusers(folder, asked):
    assert isinstance(FaceAnonymizer.from_pretrained(folder, **asked)._pipeline, DiffusionPipeline)


def test_damaged_weights_are_refused_as_ever(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for item in folder.iterdir():
        (copy / item.name).symlink_to(item)
    (copy / "thresholds.json").unlink()
    (copy / "thresholds.json").write_text("{}")
    with pytest.raises(ValueError, match=r"thresholds.json should have sha256"):
        FaceAnonymizer.from_pretrained(copy)


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_the_schedule_is_diffusers_own(steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = FlowSchedule({**theirs.config, "_class_name": type(theirs).__name__})
    sigmas, noise = np.linspace(1, 1 / steps, steps).tolist(), torch.randn(2, 3, 8, 8)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps, device=torch.device("cpu"), sigmas=sigmas)
    assert torch.equal(theirs.sigmas, ours.sigmas)
    one = other = noise
    for step, t in enumerate(theirs.timesteps):
        assert torch.equal(ours.timesteps[step], t)
        assert torch.equal(*(s.scale_noise(noise, t.expand(2), one) for s in (theirs, ours)))
        one, other = theirs.step(noise * step, t, one).prev_sample, ours.step(noise * step, t, other)[0]
        assert torch.equal(one, other)


def test_a_schedule_with_options_is_left_to_diffusers():
    config = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True).config
    with pytest.raises(ValueError, match="use_karras_sigmas"):
        FlowSchedule({**config, "_class_name": "FlowMatchEulerDiscreteScheduler"})


@pytest.mark.parametrize("name", ["face256/id_encoder", "face_estimator/network", "face_estimator/apertures"])
def test_a_shipped_network_gives_what_transformers_gives(weights, name):
    ours, theirs = load_network(weights / name), load_resnet(weights / name)
    assert isinstance(ours, ResNet)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    one, other = (network(images, output_hidden_states=True) for network in (ours, theirs))
    assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(*pair) for pair in zip(one.hidden_states, other.hidden_states, strict=True))
    assert torch.equal(*(torch.autograd.grad(out.logits.square().sum(), images)[0] for out in (one, other)))
    assert ours.config.num_labels == theirs.config.num_labels
