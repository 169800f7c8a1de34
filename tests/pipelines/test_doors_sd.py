"""Every way to load the Stable Diffusion pipelines, each in a fresh process without network and without cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deid_diffusion.hub.folder import pipeline_files
from tests.pipelines.sd_models import hub_cache, sd_pipe, sdxl_pipe

PIPELINES = Path(__file__).parents[2] / "pipelines"
CLASSES = {
    "sd_face_inpaint": "StableDiffusionFaceInpaintPipeline",
    "sdxl_face_inpaint": "StableDiffusionXLFaceInpaintPipeline",
}
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "deid_diffusion":
            raise ImportError("blocked")

sys.meta_path.insert(0, Blocked())
"""
PAINT = """
import torch
crop, mask = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
mask[..., 20:40, 20:40] = 1
out = pipe(image=crop, mask_image=mask, repulsion={"scale": 30.0}, num_inference_steps=1, output_type="pt",
           attributes={"smile": 1.0}, guidance_scale=1.0, generator=torch.Generator().manual_seed(0)).images
assert (out[..., :20, :] == 0).all() and out[..., 20:40, 20:40].abs().sum() > 0
print(type(pipe).__name__)
"""


def fresh(code: str, *arguments: object, home: Path) -> subprocess.CompletedProcess:
    """Runs code in a new isolated interpreter, offline."""
    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **offline}, cwd=home, timeout=300
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Saved checkpoints, without code, by the file of their pipeline."""
    place = tmp_path_factory.mktemp("sd")
    makers = {"sd_face_inpaint": sd_pipe, "sdxl_face_inpaint": sdxl_pipe}
    for file, maker in makers.items():
        maker(place).save_pretrained(place / file)
    return {file: place / file for file in makers}


@pytest.mark.parametrize(("file", "name"), CLASSES.items())
def test_own_class_needs_no_trust(folders, tmp_path, file, name):
    code = f"from deid_diffusion.pipelines.{file} import {name} as P\n"
    code += "import sys\npipe = P.from_pretrained(sys.argv[1])" + PAINT
    done = fresh(code, folders[file], home=tmp_path)
    assert done.stdout.strip() == name, done.stderr[-2000:]


@pytest.mark.parametrize(("file", "name"), CLASSES.items())
def test_file_of_the_checkout_on_a_plain_checkpoint(folders, tmp_path, file, name):
    plain = tmp_path / "plain"
    shutil.copytree(folders[file], plain)
    index = json.loads((plain / "model_index.json").read_text())
    index["_class_name"] = name.replace("Face", "")
    index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    (plain / "model_index.json").write_text(json.dumps(index))
    code = BLOCK + "from diffusers import DiffusionPipeline\nwhere = dict(custom_pipeline=sys.argv[2])\n"
    code += "try:\n    DiffusionPipeline.from_pretrained(sys.argv[1], **where)\n"
    code += "except ValueError as error:\n    assert 'trust_remote_code=True' in str(error)\n"
    code += "else:\n    raise SystemExit('no trust was asked')\n"
    code += "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], **where, trust_remote_code=True)" + PAINT
    done = fresh(code, plain, PIPELINES / f"{file}.py", home=tmp_path)
    assert done.stdout.strip() == name, done.stderr[-2000:]


@pytest.mark.parametrize("door", ["folder", "hub cache"])
@pytest.mark.parametrize(("file", "name"), CLASSES.items())
def test_code_beside_the_weights_by_name(folders, tmp_path, file, name, door):
    home = tmp_path / "home"
    commit = hub_cache(home / "hub", "acme/tiny", folders[file], pipeline_files(file))
    together = home / "hub" / "models--acme--tiny" / "snapshots" / commit
    where = (together, "main") if door == "folder" else ("acme/tiny", commit)
    code = BLOCK + "from diffusers import DiffusionPipeline\n"
    code += "how = dict(custom_pipeline=sys.argv[1], trust_remote_code=True, revision=sys.argv[3])\n"
    code += "pipe = DiffusionPipeline.from_pretrained(sys.argv[2], **how)" + PAINT
    done = fresh(code, file, *where, home=home)
    assert done.stdout.strip() == name, done.stderr[-2000:]


@pytest.mark.parametrize("file", ["sd_face_inpaint", "sdxl_face_inpaint"])
def test_the_main_file_names_every_sibling_that_it_needs(file):
    main, *siblings = pipeline_files(file)
    text = main.read_text()
    missing = [path.stem for path in siblings if f"from .{path.stem} import" not in text]
    assert not missing, f"the Hub loader would not fetch {missing}"
