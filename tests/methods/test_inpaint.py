"""Whole pictures through every family, by the two doors that users take: FaceAnonymizer and `deid run --model`.

The Stable Diffusion checkpoints are tiny and real; guide, reader and identities are the shipped ones.
"""

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

from deid_diffusion import FaceAnonymizer, Repulsion, cli
from deid_diffusion.methods.sampling import batch_size
from deid_diffusion.settings import Settings
from deid_diffusion.types import Outcome
from tests.pipelines.sd_models import controlnet, hub_cache, sd_pipe, sdxl_pipe, unet, vae, xl_unet
from tests.tiny import tiny_bank, tiny_pipeline

FAST = Settings(steps=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Tiny checkpoints as users have them: no guide, no ControlNet of their own."""
    place = tmp_path_factory.mktemp("models")
    sd_pipe(place, id_encoder=None).save_pretrained(place / "sd")
    sd_pipe(place, in_channels=4, id_encoder=None, preview_vae=None).save_pretrained(place / "sd4")
    sdxl_pipe(place, id_encoder=None).save_pretrained(place / "sdxl")
    controlnet(unet()).save_pretrained(place / "control")
    controlnet(xl_unet()).save_pretrained(place / "control_xl")
    return {path.name: path for path in place.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def sd(folders, weights) -> FaceAnonymizer:
    return FaceAnonymizer.from_pretrained(folders["sd"])


@pytest.fixture(scope="module")
def controlled(folders, weights) -> FaceAnonymizer:
    return FaceAnonymizer.from_pretrained(folders["sd"], pipeline="sd", controlnet=folders["control"])


@pytest.fixture(scope="module")
def photo(astronaut) -> np.ndarray:
    """(256, 256, 3): the head, so that detection is quick."""
    return np.ascontiguousarray(astronaut[0:256, 96:352])


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check_replaced(result, photo: np.ndarray) -> None:
    """The one face is new, and nothing else is."""
    (face,) = result.faces
    assert face.outcome is Outcome.REPLACED, face.reason
    assert np.array_equal(result.image[~result.changed_mask], photo[~result.changed_mask])
    x0, y0, x1, y1 = (round(float(v)) for v in face.face.box)
    middle = np.s_[(3 * y0 + y1) // 4 : (y0 + 3 * y1) // 4, (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4]
    assert (result.image[middle] == photo[middle]).all(-1).mean() < 0.01


# What comes out


def test_stable_diffusion_replaces_the_astronaut_the_same_way_for_the_same_seed(sd, photo):
    first, again, other = (sd(photo, seed=seed, settings=FAST) for seed in (1, 1, 2))
    check_replaced(first, photo)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.faces[0].similarity < sd.thresholds["far_0.01"]


def test_a_controlnet_is_shown_the_targets_face_and_never_the_sources(controlled, sd, photo, monkeypatch):
    shown, real = [], type(controlled.pipeline).__call__

    def watch(self, **given):
        shown.append(given)
        return real(self, **given)

    monkeypatch.setattr(type(controlled.pipeline), "__call__", watch)
    result = controlled(photo, seed=1, settings=FAST)
    check_replaced(result, photo)
    (mesh,) = shown[0]["landmarks"]
    source = controlled.estimator.landmarks(shown[0]["image"])[0, :, :2]
    assert mesh.shape == (478, 2)
    assert 0 < mesh.min() < mesh.max() < sd.size
    # The outline is the target's: far from the source's in pixels of this small crop, though in the same place.
    jaw = [172, 58, 132, 93, 397, 288, 361, 323, 152]
    assert np.abs(mesh[jaw] - source[jaw]).max() > 0.5
    assert np.abs(mesh.mean(0) - source.mean(0)).max() < 0.1 * sd.size
    sd(photo, seed=1, settings=FAST)
    assert shown[1]["landmarks"] is None
    assert shown[1]["image"].shape == (1, sd.size, sd.size, 3)
    assert sd.size != 256


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("sdxl", {}),
        ("sdxl", {"pipeline": "sdxl", "controlnet": "control_xl"}),
        ("sd4", {"dtype": "bfloat16"}),
    ],
)
def test_other_members_of_the_family(folders, weights, photo, name, how):
    how = {key: folders.get(value, value) if key == "controlnet" else value for key, value in how.items()}
    anonymize = FaceAnonymizer.from_pretrained(folders[name], **how)
    check_replaced(anonymize(photo, steps=1, repulsion=Repulsion(scale=0)), photo)
    assert next(anonymize.pipeline.id_encoder.parameters()).dtype == torch.float32


def test_too_similar_is_redacted_whatever_the_family(sd, photo):
    result = sd(photo, settings=FAST, threshold=-1.0, tries=2)
    (face,) = result.faces
    assert face.outcome is Outcome.REDACTED
    assert face.tries == 2
    assert "too similar" in face.reason


def test_a_model_that_overflows_is_redacted(sd, photo, monkeypatch):
    monkeypatch.setattr(sd.pipeline.vae, "decode", lambda z, **_: (torch.full_like(z, float("nan")),))
    result = sd(photo, settings=FAST, repulsion=Repulsion(scale=0))
    assert result.faces[0].outcome is Outcome.FAILED
    assert "inpainting failed" in result.faces[0].reason


def test_words_and_attributes_reach_the_text_encoder(sd, photo, monkeypatch):
    said, real = [], type(sd.pipeline).encode_texts

    def listen(self, prompts, *rest):
        said.append(prompts)
        return real(self, prompts, *rest)

    monkeypatch.setattr(type(sd.pipeline), "encode_texts", listen)
    sd(photo, settings=FAST, prompt="oil painting", negative_prompt="blur", attributes={"age": 71.0, "smile": 1.0})
    assert said[0][0].startswith("oil painting, portrait photo of a 71 year old")
    assert "smiling" in said[0][0]
    assert said[1] == ["blur"]


def test_the_embedded_model_reads_no_words(weights, photo):
    with pytest.raises(ValueError, match="the embedded model reads no words, got prompt; set attributes"):
        FaceAnonymizer.from_pretrained()(photo, prompt="oil painting")


def test_large_models_take_one_face_a_call_unless_told(sd):
    assert batch_size(sd.pipeline, Settings()) == 1
    assert batch_size(sd.pipeline, Settings(batch=3)) == 3
    assert batch_size(tiny_pipeline(32), Settings()) == 8


# Where it came from


def test_the_report_says_which_checkpoint(controlled):
    told = controlled.versions()
    assert told["checkpoint"].items() >= {
        ("pipeline", "sd"),
        ("model", "sd"),
        ("revision", ""),
        ("dtype", "float32"),
        ("controlnet", "control"),
        ("id_encoder", "face256/id_encoder"),
    }
    wanted = (
        "unet/",
        "vae/",
        "text_encoder/",
        "controlnet/",
        "id_encoder/",
        "id_encoder/identities",
        "face_estimator/",
    )
    for start in wanted:
        assert any(name.startswith(start) and len(value) == 64 for name, value in told["weights"].items()), start


def test_by_hub_name_offline_with_the_commit_in_the_report(folders, weights, photo, cache):
    commit = hub_cache(cache, "acme/tiny", folders["sd"])
    hub_cache(cache, "acme/control", folders["control"])
    anonymize = FaceAnonymizer.from_pretrained("acme/tiny", controlnet=f"acme/control@{commit}")
    check_replaced(anonymize(photo, settings=FAST), photo)
    told = anonymize.versions()["checkpoint"]
    assert told["model"] == "acme/tiny"
    assert told["revision"] == commit
    assert told["controlnet"] == f"acme/control@{commit}"


def embedded(folder: Path) -> Path:
    """A tiny face256 folder, whole."""
    tiny_pipeline(64).save_pretrained(folder)
    tiny_bank().save(folder / "identities.safetensors")
    (folder / "thresholds.json").write_text('{"far_0.001": 0.9, "far_0.01": 0.8, "far_0.05": 0.7}')
    return folder


def test_an_embedded_model_by_hub_name_brings_its_own_guide(cache, tmp_path):
    hub_cache(cache, "acme/face", embedded(tmp_path / "face"))
    anonymize = FaceAnonymizer.from_pretrained("acme/face", revision="main")
    assert anonymize.thresholds["far_0.01"] == 0.8
    assert anonymize.size == 64
    assert anonymize.versions()["checkpoint"]["pipeline"] == "face256"


@pytest.mark.parametrize("missing", ["identities.safetensors", "thresholds.json", "id_encoder"])
def test_an_embedded_model_without_its_guide_says_what_is_missing(tmp_path, missing):
    folder = embedded(tmp_path / "face")
    place = folder / missing
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(FileNotFoundError, match=f"face must hold {missing}.*copy it there"):
        FaceAnonymizer.from_pretrained(folder)


def test_a_guide_and_a_bank_of_different_lengths_are_refused(tmp_path, folders, weights):
    folder = embedded(tmp_path / "face")
    shutil.copyfile(weights / "face256" / "identities.safetensors", folder / "identities.safetensors")
    with pytest.raises(ValueError, match="needs an id_encoder of 256 outputs, .* got 16; take both from one folder"):
        FaceAnonymizer.from_pretrained(folder)


# The command line


def deid_run(*words) -> int:
    try:
        return cli.main(["run", *map(str, words)])
    except SystemExit as leaving:
        return leaving.code


def test_the_command_line_takes_a_checkpoint(folders, weights, photo, tmp_path, cache, capsys):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    commit = hub_cache(cache, "acme/tiny", folders["sd"])
    words = ["--model", "acme/tiny", "--revision", commit, "--controlnet", folders["control"], "--dtype", "float32"]
    words += ["--steps", 1, "--guidance", 1, "--prompt", "portrait", "--repulsion", 0, "--landmark-style", "dlib68"]
    assert deid_run(tmp_path / "photo.png", "--report", tmp_path / "report.json", *words) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["faces"][0]["outcome"] == "replaced"
    assert told["versions"]["checkpoint"]["model"] == "acme/tiny"
    assert told["versions"]["checkpoint"]["revision"] == commit
    assert told["settings"]["prompt"] == "portrait"
    assert (tmp_path / "photo_anon.png").exists()


def test_the_command_line_refuses_words_for_the_embedded_model(weights, photo, tmp_path, capsys):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    assert deid_run(tmp_path / "photo.png", "--prompt", "oil painting") == 2
    assert "reads no words, got prompt" in capsys.readouterr().err
    assert not (tmp_path / "photo_anon.png").exists()


# Bad input, by both doors


def change_index(folder: Path, **entries) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **entries}))


def wide_vae(folder: Path) -> None:
    options = {**vae().config, "latent_channels": 16}
    AutoencoderKL.from_config(options).save_pretrained(folder / "vae")


def odd_unet(folder: Path) -> None:
    UNet2DConditionModel.from_config({**unet().config, "in_channels": 5}).save_pretrained(folder / "unet")


def truncate(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def odd_scheduler(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "score"}))


BAD = [
    (
        lambda f: change_index(f, _class_name="FluxPipeline"),
        {},
        "got FluxPipeline; take a checkpoint of Stable Diffusi",
    ),
    (None, {"pipeline": "sdxl"}, "got StableDiffusionFaceInpaintPipeline; take pipeline='sd'"),
    (lambda f: shutil.rmtree(f / "text_encoder"), {}, "must hold text_encoder/ (CLIPTextModel), it does not; copy it"),
    (None, {"controlnet": "control_xl"}, "the ControlNet's cross_attention_dim must be 32"),
    (None, {"controlnet": "acme/none"}, "controlnet acme/none: its config.json is not in the local cache"),
    (wide_vae, {}, "for latents of 16 channels the unet must read 16"),
    (odd_unet, {}, "got 5 and 4; take a unet and a vae of the same checkpoint"),
    (odd_scheduler, {}, "prediction_type in"),
    (truncate, {}, "bytes by its own header"),
    (lambda f: change_index(f, _class_name=["mine", "Mine"]), {}, "brings its own code (mine.py), which is not run"),
    (lambda f: change_index(f, vae=["mine", "Mine"]), {}, "brings its own code for vae (mine), which is not run"),
    (None, {"revision": "abc"}, "revision pins a Hub checkpoint"),
    (None, {"device": "cuda:9"}, "device cuda:9 is not there"),
    (None, {"model": "acme/none"}, "run `hf download acme/none` where there is a network"),
    (None, {"model": "acme/none", "revision": "v2"}, "run `hf download acme/none --revision v2` where"),
    (None, {"model": "no/such/folder"}, "no folder no/such/folder, and it is no Hub name"),
]


@pytest.mark.parametrize("door", ["library", "command line"])
@pytest.mark.parametrize(("spoil", "how", "message"), BAD)
def test_bad_checkpoints_say_what_is_wrong(folders, weights, cache, tmp_path, capsys, door, spoil, how, message):
    folder = Path(shutil.copytree(folders["sd"], tmp_path / "copy"))
    if spoil is not None:
        spoil(folder)
    how = {"model": folder} | how
    if how.get("controlnet") in folders:
        how["controlnet"] = folders[how["controlnet"]]
    check_refused(door, tmp_path, capsys, how, message)


def check_refused(door: str, place: Path, capsys, how: dict, message: str) -> None:
    if door == "library":
        with pytest.raises((ValueError, FileNotFoundError)) as told:
            FaceAnonymizer.from_pretrained(how.pop("model"), **how)
        assert message in str(told.value)
        return
    Image.new("RGB", (64, 64)).save(place / "photo.png")
    words = [word for key, value in how.items() for word in (f"--{key}", value)]
    assert deid_run(place / "photo.png", *words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (place / "photo_anon.png").exists()


def test_half_precision_that_the_cpu_lacks(folders, weights, monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(ValueError, match="this CPU cannot run torch.bfloat16"):
        FaceAnonymizer.from_pretrained(folders["sd"], dtype="bfloat16")


def test_half_precision_that_no_cpu_runs_fast_is_refused_by_the_library():
    with pytest.raises(ValueError, match="take float32 or bfloat16"):
        FaceAnonymizer.from_pretrained(dtype="float16")


@pytest.mark.parametrize("door", ["library", "command line"])
def test_a_hub_name_that_does_not_exist(weights, tmp_path, capsys, monkeypatch, door):
    def refuse(*_args, **_options):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "no")  # made from an answer of the network

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    check_refused(door, tmp_path, capsys, {"model": "acme/typo"}, "no repository acme/typo on the Hub")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"revision": "abc"}, "got 'abc' and no model; name one"),
        ({"pipeline": "sd"}, "got FaceInpaintPipeline; take pipeline='face256'"),
        ({"controlnet": "acme/x"}, "FaceInpaintPipeline takes unet, .*; got controlnet"),
        ({"id_encoder": object()}, "id_encoder must be the folder of an identity encoder"),
    ],
)
def test_options_that_the_shipped_model_does_not_take(weights, how, message):
    with pytest.raises(ValueError, match=message):
        FaceAnonymizer.from_pretrained(**how)


def test_nothing_is_downloaded_unless_a_repository_is_named(weights, folders, monkeypatch):
    def refuse(*_args, **_options):
        pytest.fail("asked the Hub")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", refuse)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", refuse)
    FaceAnonymizer.from_pretrained()
    FaceAnonymizer.from_pretrained(folders["sd"], controlnet=folders["control"])
