"""Loading crop-level pipelines: which family, what is missing, what is damaged, and what each error says."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from deid_diffusion.models.checkpoint import check_part, find_checkpoint, hash_weights, read_index
from deid_diffusion.models.loading import as_device, as_dtype, load_checkpoint, load_pipeline
from deid_diffusion.models.registry import FAMILIES, pick_family
from deid_diffusion.weight_files import sha256_of
from tests.pipelines.sd_models import controlnet, hub_cache, id_encoder, sd_pipe, tiny_vae, unet, xl_unet
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sd")
    sd_pipe(place).save_pretrained(place / "tiny")
    return place / "tiny"


@pytest.fixture(scope="module")
def face_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("face") / "face256"
    tiny_pipeline(64).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(sd_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd_folder, tmp_path / "copy"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


# Picking


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("FaceInpaintPipeline", "face256"),
        ("StableDiffusionInpaintPipeline", "sd"),
        ("StableDiffusionPipeline", "sd"),
        ("StableDiffusionFaceInpaintPipeline", "sd"),
        ("StableDiffusionXLPipeline", "sdxl"),
        ("StableDiffusionXLControlNetInpaintPipeline", "sdxl"),
    ],
)
def test_the_index_decides(name, key):
    assert pick_family({"_class_name": name}) is FAMILIES[key]
    assert pick_family({"_class_name": name}, key) is FAMILIES[key]


@pytest.mark.parametrize(
    ("index", "pipeline", "message"),
    [
        ({"_class_name": "FluxPipeline"}, None, "org/x must be .* got FluxPipeline; take a checkpoint of Stable Diff"),
        ({}, None, "got None"),
        ({"_class_name": "StableDiffusionPipeline"}, "sdxl", "got StableDiffusionPipeline; take pipeline='sd'"),
        ({"_class_name": "FaceInpaintPipeline"}, "flux", "pipeline must be one of face256, sd, sdxl, got 'flux'"),
        ({"_class_name": ["mine", "Mine"]}, None, r"brings its own code \(mine.py\).* trust_remote_code=True"),
    ],
)
def test_another_family_is_refused(index, pipeline, message):
    with pytest.raises(ValueError, match=message):
        pick_family(index, pipeline, "org/x")


# Loading


def test_loads_a_plain_checkpoint_with_parts(copy, tmp_path):
    index = json.loads((copy / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionInpaintPipeline"
    (copy / "model_index.json").write_text(json.dumps(index))
    controlnet(unet()).save_pretrained(tmp_path / "control")
    tiny_vae().save_pretrained(tmp_path / "taesd")
    id_encoder().save_pretrained(tmp_path / "guide")
    pipe = load_pipeline(
        copy,
        dtype=torch.bfloat16,
        controlnet=tmp_path / "control",
        preview_vae=str(tmp_path / "taesd"),
        id_encoder=tmp_path / "guide",
    )
    assert type(pipe).__name__ == "StableDiffusionFaceInpaintPipeline"
    assert pipe.unet.dtype == pipe.controlnet.dtype == pipe.preview_vae.dtype == torch.bfloat16
    assert next(pipe.id_encoder.parameters()).dtype == torch.float32


def test_loads_the_embedded_model(face_folder):
    assert type(load_pipeline(face_folder)).__name__ == "FaceInpaintPipeline"


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_a_missing_component_is_named(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(FileNotFoundError, match=rf"must hold {part}/ .* pass {part}=\.\.\."):
        load_pipeline(copy)


def test_a_missing_weight_file_is_named(copy):
    next((copy / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="unet"):
        load_pipeline(copy)


@pytest.mark.parametrize("keep", [-100, 200, 5, 0])
def test_truncated_weights_are_named(copy, keep):
    path = next((copy / "vae").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"vae.*safetensors must have \d+ bytes by its own header, got \d+; it is damaged"
    ):
        load_pipeline(copy)


def test_a_mismatched_controlnet_is_refused(copy, tmp_path):
    controlnet(xl_unet()).save_pretrained(tmp_path / "control")
    with pytest.raises(ValueError, match="ControlNet's cross_attention_dim must be 32"):
        load_pipeline(copy, controlnet=tmp_path / "control")


def test_half_precision_that_the_cpu_lacks(copy, monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(ValueError, match="this CPU cannot run torch.float16"):
        load_pipeline(copy, dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no/such/folder", FileNotFoundError, "no folder no/such/folder, and it is no Hub name"),
        ("acme/none", FileNotFoundError, "not in the local cache, .* run `hf download acme/none"),
    ],
)
def test_what_is_not_there_says_how_to_get_it(offline, name, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(name)


def test_an_offline_revision_is_part_of_the_command(offline):
    with pytest.raises(FileNotFoundError, match="hf download acme/none --revision abc"):
        read_index("acme/none", "abc")


@pytest.mark.parametrize("name", ["acme/control", "acme/control/sd15"])
def test_a_part_that_is_not_there_is_named(copy, offline, name):
    with pytest.raises(FileNotFoundError, match="controlnet acme/control: .* run `hf download acme/control`"):
        load_pipeline(copy, controlnet=name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RepositoryNotFoundError,
            "no repository acme/x on the Hub, or it is private; check it, or run `hf auth login`",
        ),
        (RevisionNotFoundError, "acme/x has no revision abc; take a commit"),
        (GatedRepoError, "acme/x is gated; accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(monkeypatch, error, message):
    def refuse(*_args, **_options):
        raise error.__new__(error, "no")  # its constructor wants an answer of the network library

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=message):
        load_pipeline("acme/x", revision="abc")


def test_files_and_folders_that_are_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="need a diffusers folder or a Hub name, got the file"):
        read_index(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="must hold model_index.json"):
        read_index(tmp_path)


def test_of_the_hub_only_what_is_named_is_looked_up(sd_folder, offline, tmp_path):
    commit = hub_cache(tmp_path / "cache", "acme/tiny", sd_folder)
    loaded = load_checkpoint("acme/tiny", pipeline="sd", dtype="bfloat16")
    assert loaded.origin == {
        "pipeline": "sd",
        "model": "acme/tiny",
        "revision": commit,
        "dtype": "bfloat16",
        "id_encoder": "face256/id_encoder",
    }
    unet_file = sd_folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert loaded.hashes["unet/diffusion_pytorch_model.safetensors"] == sha256_of(unet_file)
    assert next(loaded.pipe.id_encoder.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["acme/control", "acme/control@main", "acme/control@{commit}/sd15/v2"])
def test_a_part_may_be_pinned_and_lie_in_a_subfolder(sd_folder, offline, tmp_path, name):
    controlnet(unet()).save_pretrained(tmp_path / "control")
    controlnet(unet()).save_pretrained(tmp_path / "control" / "sd15" / "v2")
    commit = hub_cache(tmp_path / "cache", "acme/control", tmp_path / "control")
    loaded = load_checkpoint(sd_folder, controlnet=name.format(commit=commit))
    assert loaded.origin["controlnet"].startswith(f"acme/control@{commit}")
    assert loaded.origin["controlnet"].endswith("/sd15/v2") == ("sd15" in name)
    assert loaded.hashes["controlnet/diffusion_pytorch_model.safetensors"]


def test_a_half_downloaded_checkpoint_says_what_is_missing_and_how_to_fetch_it(sd_folder, offline, tmp_path):
    shutil.copytree(sd_folder, tmp_path / "half")
    next((tmp_path / "half" / "unet").glob("*.safetensors")).unlink()
    commit = hub_cache(tmp_path / "cache", "acme/half", tmp_path / "half")
    with pytest.raises(
        FileNotFoundError, match=rf"unet must hold weights .* run `hf download acme/half --revision {commit}`"
    ):
        load_pipeline("acme/half")


def test_the_embedded_model_keeps_its_guide_in_float32(face_folder):
    loaded = load_checkpoint(face_folder, dtype=torch.bfloat16)
    assert loaded.pipe.unet.dtype == torch.bfloat16
    assert next(loaded.pipe.id_encoder.parameters()).dtype == torch.float32
    assert loaded.origin == {"pipeline": "face256", "model": "face256", "revision": "", "dtype": "bfloat16"}
    assert sorted(loaded.hashes) == ["id_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]


def test_the_embedded_model_wants_its_own_kind_of_scheduler(face_folder, tmp_path):
    folder = Path(shutil.copytree(face_folder, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="needs a rectified-flow scheduler .* got DDIMScheduler"):
        load_pipeline(folder)


def test_components_with_their_own_code_are_not_run(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["unet"] = ["my_unet", "MyUNet"]
    (copy / "model_index.json").write_text(json.dumps(index))
    (copy / "unet" / "my_unet.py").write_text("raise SystemExit('it was run')\n")
    with pytest.raises(ValueError, match=r"brings its own code for unet \(my_unet\).* pass unet=\.\.\."):
        load_pipeline(copy)


def test_what_is_not_needed_may_be_missing(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (copy / "model_index.json").write_text(json.dumps(index))
    assert load_pipeline(copy).controlnet is None


def test_classes_that_the_libraries_gave_up(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    (copy / "feature_extractor").mkdir()
    (copy / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    (copy / "model_index.json").write_text(json.dumps(index))
    assert load_pipeline(copy).feature_extractor is None
    (copy / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderOld"]}))
    with pytest.raises(
        ValueError, match="vae is of class AutoencoderOld, which this diffusers does not have; .* vae="
    ):
        load_pipeline(copy)


def test_a_missing_shard_is_named(tmp_path):
    unet().save_pretrained(tmp_path, max_shard_size="200KB")
    check_part(tmp_path)
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    with pytest.raises(FileNotFoundError, match="must hold diffusion_pytorch_model-00001-of"):
        check_part(tmp_path)


@pytest.mark.parametrize(
    ("files", "variant", "read"),
    [
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], None, ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["model.safetensors"], "fp16", ["model.safetensors"]),
        (["pytorch_model.bin"], None, ["pytorch_model.bin"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None, None),
    ],
)
def test_the_files_that_are_read_are_hashed(tmp_path, files, variant, read):
    (tmp_path / "unet").mkdir()
    for name in files:
        (tmp_path / "unet" / name).write_bytes(name.encode())
    hashes = hash_weights(tmp_path, ["unet", "none"], variant)
    assert sorted(hashes) == [f"unet/{name}" for name in read or files]
    assert all(value == sha256_of(tmp_path / name) for name, value in hashes.items())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16, got int8"),
        ({"device": "gpu"}, "device must be cpu, cuda, .* got 'gpu'"),
        ({"device": "cuda:99"}, r"device cuda:99 is not there: torch .* take device='cpu'"),
        ({"revision": "abc"}, "revision pins a Hub checkpoint, got the folder"),
        ({"contolnet": "x/y"}, "takes vae, .*; got contolnet"),
        ({"pipeline": "sdxl"}, "got StableDiffusionFaceInpaintPipeline; take pipeline='sd'"),
    ],
)
def test_wrong_options_are_told_before_weights_are_read(copy, how, message):
    next((copy / "unet").glob("*.safetensors")).write_bytes(b"")  # would be told, if it were read
    with pytest.raises(ValueError, match=message):
        load_pipeline(copy, **how)


def test_names_of_precisions_and_devices():
    assert as_dtype("bfloat16") is as_dtype(torch.bfloat16) is torch.bfloat16
    assert as_device("cpu") == torch.device("cpu")


def test_a_part_of_another_kind_is_refused(copy, tmp_path):
    unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="controlnet must be a ControlNetModel, got the UNet2DConditionModel"):
        load_pipeline(copy, controlnet=tmp_path / "unet")


def test_a_damaged_part_is_named(copy, tmp_path):
    controlnet(unet()).save_pretrained(tmp_path / "control")
    path = next((tmp_path / "control").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"control.*safetensors must have \d+ bytes by its own header"):
        load_pipeline(copy, controlnet=tmp_path / "control")


def test_an_index_that_is_no_json_says_so(copy):
    (copy / "model_index.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"model_index.json must be JSON, it is not .* fetch it again"):
        find_checkpoint(copy)
