"""ONNX Runtime gives what torch gives, is chosen only where it works, and never costs a run."""

import builtins
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.models import backends, graphs
from deid_diffusion.models.backends import TOLERANCE, BackendError, OnnxForward, use_backend
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.weight_files import cache_dir, sha256_of
from tests.tiny import tiny_pipeline

EXPORTS = """
import torch
from deid_diffusion.models.backends import use_backend
from tests.tiny import tiny_pipeline
torch.set_num_threads(1)
print(use_backend(tiny_pipeline(), "onnx"))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime; pip install onnxruntime onnx")
    pytest.importorskip("onnx", reason="needs onnx; pip install onnxruntime onnx")
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_onnxruntime(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


def paint(pipe, size: int = 32, faces: int = 2, **more) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    crops, mask = torch.rand(faces, 3, size, size, generator=generator) * 2 - 1, torch.zeros(faces, 1, size, size)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    seeds = [torch.Generator().manual_seed(number) for number in range(faces)]
    return pipe(crops, mask, generator=seeds, num_inference_steps=3, output_type="pt", **more).images


@pytest.mark.parametrize("batch", [3, 1, 8])
def test_any_batch_of_the_graph_equals_torch(cache, batch):
    pipe = tiny_pipeline()
    assert use_backend(pipe, "onnx").startswith("onnxruntime ")
    inputs = backends._example(pipe.unet, batch)
    with torch.no_grad():
        wanted = pipe.unet.forward.torch_forward(*inputs, return_dict=False)[0]
        torch.testing.assert_close(pipe.unet(*inputs, return_dict=False)[0], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("repulsion", [None, Repulsion(), Repulsion(through_unet=True)])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_the_pipeline_paints_the_same_face_by_either(cache, repulsion, guidance_scale):
    plain, fast = tiny_pipeline(), tiny_pipeline()
    use_backend(fast, "onnx")
    more = {"repulsion": repulsion, "guidance_scale": guidance_scale}
    torch.testing.assert_close(paint(fast, **more), paint(plain, **more), atol=TOLERANCE, rtol=0)


def test_the_shipped_unet_gives_the_same_x0(cache, weights):
    anonymize = FaceAnonymizer.from_pretrained(backend="onnx")
    unet = anonymize.pipeline.unet
    assert anonymize.versions()["checkpoint"]["backend"].startswith("onnxruntime ")
    inputs = backends._example(unet, 2)
    with torch.no_grad():
        wanted = unet.forward.torch_forward(*inputs, return_dict=False)[0]
        torch.testing.assert_close(unet(*inputs, return_dict=False)[0], wanted, atol=TOLERANCE, rtol=0)


def test_what_asks_for_a_gradient_another_precision_or_another_form_goes_to_torch(cache):
    pipe = tiny_pipeline()
    use_backend(pipe, "onnx")
    sample, level, _, condition = backends._example(pipe.unet, 1)
    out = pipe.unet(sample.requires_grad_(), level, None, class_labels=condition, return_dict=False)[0]
    assert torch.autograd.grad(out.sum(), sample)[0].abs().sum() > 0
    with torch.no_grad():
        assert pipe.unet(sample, 500.0, None, class_labels=condition).sample.shape == out.shape
        pipe.unet.double()
        doubles = [value.double() for value in (sample, level)]
        assert pipe.unet(*doubles, None, condition.double(), return_dict=False)[0].dtype == torch.float64


def test_auto_takes_it_and_the_second_run_does_not_export(cache, monkeypatch):
    assert use_backend(tiny_pipeline(), "auto").startswith("onnxruntime ")
    assert sorted(file.suffix for file in cache.iterdir()) == [".agrees", ".onnx"]
    monkeypatch.setattr(backends, "export", lambda unet: pytest.fail("exported again"))
    pipe = tiny_pipeline()
    use_backend(pipe, "onnx")
    assert isinstance(pipe.unet.forward, OnnxForward)


def test_torch_leaves_the_unet_as_it_is(cache):
    pipe = tiny_pipeline()
    assert use_backend(pipe, "torch") == f"torch {torch.__version__}"
    assert "forward" not in vars(pipe.unet)
    assert not cache.exists()


def test_other_weights_have_another_graph(cache):
    one, other = tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        other.unet.conv_out.bias += 0.5
    use_backend(one, "onnx")
    use_backend(other, "onnx")
    assert len(list(cache.glob("unet-*.onnx"))) == 2
    inputs = backends._example(one.unet, 1)
    with torch.no_grad():
        apart = other.unet(*inputs, return_dict=False)[0] - one.unet(*inputs, return_dict=False)[0]
    torch.testing.assert_close(apart, torch.full_like(apart, 0.5))


def test_old_graphs_leave_the_cache(cache):
    for number in range(graphs.KEPT + 2):
        graphs.keep(cache / f"unet-{number}.onnx", b"graph")
    assert len(list(cache.glob("*.onnx"))) == graphs.KEPT


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "another unet's"])
def test_a_damaged_graph_is_made_anew(cache, damage, caplog):
    use_backend(tiny_pipeline(), "onnx")
    (path,) = cache.glob("*.onnx")
    whole = path.read_bytes()
    other = tiny_pipeline().unet
    with torch.no_grad():
        other.conv_out.bias += 0.5
    path.write_bytes(
        {"empty": b"", "cut": whole[:-1000], "foreign": b"no graph", "another unet's": backends.export(other)}[damage]
    )
    pipe = tiny_pipeline()
    assert use_backend(pipe, "auto").startswith("onnxruntime ")
    assert "made anew" in caplog.text
    torch.testing.assert_close(paint(pipe), paint(tiny_pipeline()), atol=TOLERANCE, rtol=0)
    caplog.clear()
    use_backend(tiny_pipeline(), "onnx")
    assert "made anew" not in caplog.text


def test_a_cache_that_cannot_be_written_costs_no_run(tmp_path, cache, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "file" / "cache"))
    assert use_backend(tiny_pipeline(), "onnx").startswith("onnxruntime ")
    assert "cannot be kept" in caplog.text


def test_two_processes_may_export_at_once(cache):
    def run(_: int) -> str:
        return subprocess.run([sys.executable, "-c", EXPORTS], check=True, capture_output=True, text=True).stdout

    with ThreadPoolExecutor(2) as pool:
        assert all(said.startswith("onnxruntime ") for said in pool.map(run, range(2)))
    assert sorted(file.suffix for file in cache.iterdir()) == [".agrees", ".onnx"]
    assert use_backend(tiny_pipeline(), "onnx").startswith("onnxruntime ")


def test_auto_falls_back_and_a_named_backend_says_what_to_install(no_onnxruntime):
    pipe = tiny_pipeline()
    assert use_backend(pipe, "auto") == f"torch {torch.__version__}"
    with pytest.raises(BackendError, match="pip install onnxruntime onnx onnxscript"):
        use_backend(pipe, "onnx")
    assert "forward" not in vars(pipe.unet)


def test_an_export_that_fails_costs_auto_nothing(cache, monkeypatch, caplog):
    def fail(unet):
        raise RuntimeError("operator not known")

    monkeypatch.setattr(backends, "export", fail)
    assert use_backend(tiny_pipeline(), "auto").startswith("torch ")
    assert "operator not known" in caplog.text
    with pytest.raises(BackendError, match="operator not known"):
        use_backend(tiny_pipeline(), "onnx")


def test_a_graph_that_disagrees_is_never_used(cache, monkeypatch):
    other = tiny_pipeline().unet
    with torch.no_grad():
        other.conv_out.bias += 0.5
    wrong = backends.export(other)
    monkeypatch.setattr(backends, "export", lambda unet: wrong)
    with pytest.raises(BackendError, match="must agree with torch"):
        use_backend(tiny_pipeline(), "onnx")
    assert not list(cache.glob("*"))


def test_another_precision_is_refused_by_name_and_left_to_torch_by_auto(cache):
    pipe = tiny_pipeline().to(torch.bfloat16)
    with pytest.raises(BackendError, match="bfloat16 on cpu"):
        use_backend(pipe, "onnx")
    assert use_backend(pipe, "auto").startswith("torch ")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="auto, torch, compile, onnx"):
        use_backend(tiny_pipeline(), "tensorrt")


def test_compile_goes_through_torch_compile():
    pipe, calls = tiny_pipeline(), []

    def compiler(graph, inputs):
        calls.append(graph)
        return graph

    assert "compiled by" in use_backend(pipe, "compile", compiler)
    assert calls
    torch.testing.assert_close(paint(pipe), paint(tiny_pipeline()), atol=1e-5, rtol=0)


def test_a_compiler_that_fails_is_told_before_a_face_is_lost():
    pipe = tiny_pipeline()

    def compiler(graph, inputs):
        raise RuntimeError("no C++ compiler")

    with pytest.raises(BackendError, match="take backend='torch'"):
        use_backend(pipe, "compile", compiler)
    assert torch.isfinite(paint(pipe)).all()


@pytest.mark.parametrize(
    ("set_to", "wanted"),
    [
        ({"DEID_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/deid_diffusion"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": ""}, "/home/me/.cache/deid_diffusion"),
    ],
)
def test_the_cache_lies_where_the_user_says(monkeypatch, set_to, wanted):
    for name in ("DEID_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    assert cache_dir().as_posix() == wanted


def test_a_graph_is_compared_with_torch_once_and_again_when_it_changed(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime; pip install onnxruntime onnx")
    monkeypatch.setenv("DEID_CACHE", str(tmp_path))
    compared = []
    real = backends._checked
    monkeypatch.setattr(backends, "_checked", lambda unet, graph: compared.append(len(graph)) or real(unet, graph))
    for _ in range(3):
        use_backend(tiny_pipeline(), "onnx")
    assert len(compared) == 1
    graph = next(tmp_path.glob("unet-*.onnx"))
    other = graph.read_bytes()
    graph.write_bytes(other + b"\0\0")  # a torn or exchanged file is no longer known
    use_backend(tiny_pipeline(), "onnx")
    assert len(compared) in (2, 3)
    assert graph.with_suffix(".agrees").read_text().split("\n")[0] == sha256_of(graph)
