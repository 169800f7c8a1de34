import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError

from deid_diffusion.cli import main
from deid_diffusion.hub import folder as hub_folder
from deid_diffusion.hub.folder import Card, card_text, check_in_fresh_process, pipeline_files
from deid_diffusion.hub.publish import publish
from deid_diffusion.weight_files import check_hashes
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def face_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("face") / "face256"
    tiny_pipeline(64).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n\nData: none.\n")
    config = json.loads((folder / "id_encoder" / "config.json").read_text())
    (folder / "id_encoder" / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/me/runs/7"}))
    return folder


def test_each_pipeline_brings_all_its_siblings():
    names = [path.name for path in pipeline_files("face_inpaint")]
    assert names[0] == "face_inpaint.py"
    assert {"conditioning.py", "precondition.py", "id_encoder.py", "repulsion.py"} <= set(names)
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
    monkeypatch.setattr("deid_diffusion.hub.publish.HfApi", FakeApi)
    monkeypatch.setattr("deid_diffusion.hub.publish.check_in_fresh_process", lambda *_: "FaceInpaintPipeline")
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
    monkeypatch.setattr("deid_diffusion.hub.publish.HfApi", FakeApi)
    monkeypatch.setattr("deid_diffusion.hub.publish.check_in_fresh_process", lambda *_: "FaceInpaintPipeline")
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
