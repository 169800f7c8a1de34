"""The wheel holds code, pipelines and weights, and works from where it is unpacked."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import deid_diffusion

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling; pip install 'deid-diffusion[test]'")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_has_the_crop_level_inside_the_package(unpacked):
    names = {p.name for p in (unpacked / "deid_diffusion" / "pipelines").iterdir()}
    assert {"__init__.py", "face_inpaint.py", "repulsion.py", "conditioning.py"} <= names
    assert not (unpacked / "pipelines").exists()
    assert not (unpacked / "tests").exists()


def test_the_wheel_says_its_version_and_that_it_has_types(unpacked):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    assert f"\nVersion: {deid_diffusion.__version__}\n" in text
    assert "\nAuthor: the deid_diffusion authors\n" in text
    assert (unpacked / "deid_diffusion" / "py.typed").exists()


def test_an_unpacked_wheel_anonymizes_with_its_own_weights(unpacked, weights, tmp_path):
    code = """
import deid_diffusion, sys
from skimage.data import astronaut
assert deid_diffusion.__file__.startswith(sys.argv[1]), deid_diffusion.__file__
from deid_diffusion import FaceAnonymizer
from deid_diffusion.weight_files import weights_dir
assert str(weights_dir("face256")).startswith(sys.argv[1])
result = FaceAnonymizer.from_pretrained()(astronaut()[0:256, 96:352], steps=1, tries=1)
print(len(result.faces), result.faces[0].outcome.value)
"""
    env = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == "1"
