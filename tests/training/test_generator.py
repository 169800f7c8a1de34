"""The generator's graphs as torch: equal to OpenVINO's own run of them, and plain about what is missing."""

import importlib.util

import numpy as np
import pytest
import torch

from deid_diffusion.training import generator
from deid_diffusion.training.generator import Generator, Graph, wheel_folder

IR = """<net name="toy" version="10"><layers>
<layer id="0" name="in" type="Parameter"><data shape="1,2" element_type="f32"/><output><port id="0"/></output></layer>
<layer id="1" name="k" type="Const"><data element_type="f32" shape="2, 2" offset="0" size="16"/>
<output><port id="0"/></output></layer>
<layer id="2" name="op" type="{kind}"><data transpose_a="false" transpose_b="true"/>
<input><port id="0"/><port id="1"/></input><output><port id="2"/></output></layer>
<layer id="3" name="out" type="Result"><input><port id="0"/></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges></net>"""


def write_toy(folder, kind: str):
    (folder / "toy.xml").write_text(IR.format(kind=kind))
    (folder / "toy.bin").write_bytes(np.array([1, 2, 3, 4], np.float32).tobytes())
    return folder / "toy"


def test_a_graph_is_what_its_file_says(tmp_path):
    out = Graph(write_toy(tmp_path, "MatMul"))(torch.tensor([[1.0, 10.0], [0.0, 1.0]]))
    assert out.tolist() == [[21.0, 43.0], [2.0, 4.0]]


def test_an_unknown_operation_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds the operation Einsum, which is not known"):
        Graph(write_toy(tmp_path, "Einsum"))


def test_without_the_wheel_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(generator, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps random-face==2021.7.21.1"):
        Generator()


@pytest.mark.parametrize(("backend", "device"), [("tensorflow", "cpu"), ("openvino", "cuda")])
def test_a_backend_that_cannot_paint_is_refused(backend, device):
    with pytest.raises(ValueError, match="backend must be one of auto, torch, openvino"):
        Generator(backend=backend, device=device)


@pytest.fixture(scope="module")
def folder():
    if importlib.util.find_spec("random_face") is None:
        pytest.skip(f"needs the generator's wheel: pip install --no-deps {generator.WHEEL}")
    return wheel_folder()


def test_torch_paints_what_openvino_paints(folder):
    openvino = pytest.importorskip("openvino", reason="needs openvino; pip install 'deid-diffusion[openvino]'")
    core, exactly = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    noise = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    style = core.compile_model(folder / "MappingNetwork.xml", "CPU", exactly)([noise])[0]
    picture = core.compile_model(folder / "SynthesisNetwork.xml", "CPU", exactly)([style])[0]
    with torch.no_grad():
        mapped = Graph(folder / "MappingNetwork")(torch.from_numpy(noise)).numpy()
        painted = Graph(folder / "SynthesisNetwork")(torch.from_numpy(style)).numpy()
    assert painted.shape == (1, 3, 1024, 1024)
    assert np.abs(mapped - style).max() < 1e-3
    assert np.abs(painted - picture).max() < 1e-3


def test_two_at_once_are_two_one_by_one_and_half_the_truncation_is_half_way(folder):
    paint = Generator(folder, backend="torch")
    noise = np.random.default_rng(1).standard_normal((2, 512))
    styles = paint.styles(noise, np.array([1.0, 0.5]))
    both = paint.paint(styles)
    assert both.shape == (2, 1024, 1024, 3)
    assert np.abs(both[1].astype(int) - paint.paint(styles[1:])[0]).max() <= 1
    full = paint.styles(noise, np.ones(2))
    np.testing.assert_allclose(styles[1], (full[1] + paint.mean) / 2, atol=1e-4)
