import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from deid_diffusion import hub, hub_folder
from deid_diffusion.cli import main
from deid_diffusion.hub import FAMILIES, load_pipeline, pick_family, publish, read_index
from deid_diffusion.hub_folder import Card, card_text, check_in_fresh_process, pipeline_files
from deid_diffusion.paths import check_hashes
from tests.pipelines.sd_models import controlnet, id_encoder, sd_pipe, tiny_vae, unet, xl_unet
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
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n\nData: none.\n")
    config = json.loads((folder / "id_encoder" / "config.json").read_text())
    (folder / "id_encoder" / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/me/runs/7"}))
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


def test_a_part_may_lie_in_a_subfolder(monkeypatch):
    asked = {}

    def note(source, dtype, **options):
        asked.update(source=source, **options)

    monkeypatch.setattr("diffusers.ControlNetModel.from_pretrained", note)
    hub._load_parts({"controlnet": "acme/control/sd15/v2"}, torch.float32, guide=False)
    assert asked == {"source": "acme/control", "subfolder": "sd15/v2"}


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

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=message):
        load_pipeline("acme/x", revision="abc")


def test_files_and_folders_that_are_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="need a diffusers folder or a Hub name, got the file"):
        read_index(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="must hold model_index.json"):
        read_index(tmp_path)


# Publishing


def test_each_pipeline_brings_all_its_siblings():
    names = [path.name for path in pipeline_files("face_inpaint")]
    assert names[0] == "face_inpaint.py"
    assert {"conditioning.py", "denoise.py", "recognise.py", "repulsion.py"} <= set(names)
    assert not [name for name in names if name.startswith("sd")]


def test_dry_run_builds_a_folder_that_loads_without_the_package(face_folder, tmp_path):
    built = publish(face_folder, "acme/tiny-face", tmp_path / "out", dry_run=True)
    names = {path.name for path in built.iterdir()}
    assert {"README.md", "LICENSE", "SHA256SUMS", "model_index.json", "face_inpaint.py", "repulsion.py"} <= names
    assert check_hashes(built)
    card = (built / "README.md").read_text()
    header = card.split("---")[1]
    assert "license: apache-2.0" in header
    assert "library_name: diffusers" in header
    assert "# Tiny\n\nData: none." in card
    assert "license: mit" not in card
    assert '"acme/tiny-face", custom_pipeline="face_inpaint", trust_remote_code=True' in card
    assert "org/name" not in card
    assert card.count("| `unet/diffusion_pytorch_model.safetensors` |") == 1
    assert "/home/me" not in "".join(p.read_text() for p in built.rglob("*.json"))


def test_sd_card_names_its_own_pipeline(tmp_path):
    card = card_text(
        tmp_path, "acme/sd", "sd_face_inpaint", Card(base_model=("acme/base",), datasets=("acme/faces",)), ""
    )
    assert 'custom_pipeline="sd_face_inpaint"' in card
    assert "base_model: acme/base" in card or "- acme/base" in card
    assert "# acme/sd" in card


class FakeApi:
    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, private, exist_ok):
        if repo_id == "acme/forbidden":
            raise LocalTokenNotFoundError("no token")
        self.repo = (repo_id, private, exist_ok)

    def upload_folder(self, repo_id, folder_path, commit_message):
        assert (Path(folder_path) / "model_index.json").exists()
        assert self.repo == (repo_id, True, True)
        return type("Commit", (), {"commit_url": f"https://hub.invalid/{repo_id}/commit/1"})()


def test_uploads_what_it_built(face_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(hub, "check_in_fresh_process", lambda *_: "FaceInpaintPipeline")
    url = publish(face_folder, "acme/tiny", tmp_path / "out", private=True, token="t")
    assert url == "https://hub.invalid/acme/tiny/commit/1"
    with pytest.raises(ValueError, match="does not let you write to acme/forbidden; run `hf auth login`"):
        publish(face_folder, "acme/forbidden", tmp_path / "again")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "notes.ckpt").write_bytes(b"x"), "only plain files and safetensors .* notes.ckpt"),
        (lambda folder: (folder / "link").symlink_to(folder), "only plain files"),
        (
            lambda folder: (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}'),
            "takes",
        ),
    ],
)
def test_what_must_not_be_published_is_not(face_folder, tmp_path, spoil, message):
    folder = Path(shutil.copytree(face_folder, tmp_path / "copy"))
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        publish(folder, "acme/tiny", tmp_path / "out", dry_run=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


@pytest.mark.parametrize("repo_id", ["a b", "too/many/parts", "-x"])
def test_a_bad_name_is_refused_before_work(face_folder, tmp_path, repo_id):
    with pytest.raises(ValueError, match="repo_id must be a Hub name like org/name"):
        publish(face_folder, repo_id, tmp_path / "out", dry_run=True)


def test_a_full_place_is_not_overwritten(face_folder, tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ValueError, match="is built in an empty place"):
        publish(face_folder, "acme/tiny", tmp_path, dry_run=True)


def test_command_line(face_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(hub, "check_in_fresh_process", lambda *_: "FaceInpaintPipeline")
    monkeypatch.chdir(tmp_path)  # it builds in out/hub of the working directory unless told where
    place = [str(face_folder), "acme/tiny"]
    assert main(["publish", *place, "--dry-run", "--out", str(tmp_path / "out"), "--license", "mit"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    assert main(["publish", *place, "--private"]) == 0
    assert capsys.readouterr().out.strip() == "https://hub.invalid/acme/tiny/commit/1"
    assert main(["publish", str(tmp_path / "none"), "acme/tiny"]) != 0


def test_a_folder_that_does_not_load_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_folder, "_TRIAL", "raise SystemExit('broken')")
    with pytest.raises(ValueError, match=r"does not load on its own; it is not published:\nbroken"):
        check_in_fresh_process(tmp_path, "face_inpaint")
