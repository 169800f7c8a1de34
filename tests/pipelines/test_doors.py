"""Every way to load the embedded model's pipeline, each in a fresh process without network and without cache."""

import shutil
from pathlib import Path

import pytest

from deid_diffusion.hub.folder import pipeline_files
from tests.pipelines.sd_models import hub_cache
from tests.pipelines.test_doors_sd import BLOCK, PAINT, PIPELINES, fresh
from tests.tiny import tiny_pipeline

SIBLINGS = {
    *(
        "conditioning",
        "detail",
        "guidance",
        "id_encoder",
        "inpainter",
        "inputs",
        "precondition",
        "repulsion",
        "sampler",
        "schedule",
    ),
}
LOAD = "from diffusers import DiffusionPipeline\npipe = DiffusionPipeline.from_pretrained(sys.argv[1], "


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved pipeline, without code."""
    place = tmp_path_factory.mktemp("face") / "tiny"
    tiny_pipeline(64).save_pretrained(place)
    return place


def test_own_class_needs_no_trust(folder, tmp_path):
    code = "import sys\nfrom deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline as P\n"
    done = fresh(code + "pipe = P.from_pretrained(sys.argv[1])" + PAINT, folder, home=tmp_path)
    assert done.stdout.strip() == "FaceInpaintPipeline", done.stderr[-2000:]


def test_file_of_the_checkout_without_the_package(folder, tmp_path):
    load = LOAD + "custom_pipeline=sys.argv[2], trust_remote_code=True)"
    done = fresh(BLOCK + load + PAINT, folder, PIPELINES / "face_inpaint.py", home=tmp_path)
    assert done.stdout.strip() == "FaceInpaintPipeline", done.stderr[-2000:]


def test_code_beside_the_weights_and_by_name_from_a_hub_cache(folder, tmp_path):
    files = pipeline_files("face_inpaint")
    together = tmp_path / "together"
    shutil.copytree(folder, together)
    for path in files:
        shutil.copyfile(path, together / path.name)
    home = tmp_path / "home"
    commit = hub_cache(home / "hub", "acme/face", folder, files)
    load = LOAD + "custom_pipeline='face_inpaint', trust_remote_code=True"
    done = fresh(BLOCK + load + ")" + PAINT, together, home=home)
    assert done.stdout.strip() == "FaceInpaintPipeline", done.stderr[-2000:]
    done = fresh(BLOCK + load + ", revision=sys.argv[2])" + PAINT, "acme/face", commit, home=home)
    assert done.stdout.strip() == "FaceInpaintPipeline", done.stderr[-2000:]


def test_without_trust_the_checkouts_file_is_refused(folder, tmp_path):
    load = LOAD + "custom_pipeline=sys.argv[2])"
    done = fresh(BLOCK + load, folder, PIPELINES / "face_inpaint.py", home=tmp_path)
    assert done.returncode != 0
    assert "trust_remote_code=True" in done.stderr


def test_the_main_file_names_every_sibling_that_it_needs():
    main, *siblings = pipeline_files("face_inpaint")
    assert {path.stem for path in siblings} == SIBLINGS
    assert all(f"from .{path.stem} import" in main.read_text() for path in siblings)
