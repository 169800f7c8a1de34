import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.evaluation import judges
from deid_diffusion.evaluation.detectors import detector_from_spec
from deid_diffusion.evaluation.judges import TEMPLATES, id_encoder_hashes, judge_from_spec, to_batch
from deid_diffusion.evaluation.metrics import unit_norm
from deid_diffusion.evaluation.pairing import read_picture
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.warp import ARCFACE
from deid_diffusion.types import Face
from deid_diffusion.weight_files import sha256_of
from tests.evaluation.conftest import BOX, LANDMARKS, portrait

FACE = Face(BOX, LANDMARKS)


def _field(number: int, value: bytes | str | int) -> bytes:
    """One field of a protobuf message, shorter than 128 bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    value = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(value)]) + value


def _onnx(path: Path, operator: str = "GlobalAveragePool", side: int = 32) -> None:
    """A real ONNX file of one operator on (1, 3, side, side), written without the package `onnx`."""
    if not any(map(importlib.util.find_spec, ("onnxruntime", "openvino"))):
        pytest.skip("neither onnxruntime nor openvino is installed")

    def tensor(name: str, *shape: int) -> bytes:
        kind = _field(1, 1) + _field(2, b"".join(_field(1, _field(1, side)) for side in shape))
        return _field(1, name) + _field(2, _field(1, kind))

    node = _field(1, _field(1, "x") + _field(2, "y") + _field(4, operator))
    pooled = (1, 3, 1, 1) if operator == "GlobalAveragePool" else (1, 1, 1, 1)
    graph = node + _field(2, "net") + _field(11, tensor("x", 1, 3, side, side)) + _field(12, tensor("y", *pooled))
    path.write_bytes(_field(1, 8) + bytes([7 << 3 | 2, len(graph)]) + graph + _field(8, _field(2, 13)))


def test_a_torchscript_judge_knows_a_person_again(judge_file):
    judge = judge_from_spec(f"{judge_file}:64:rgb:arcface:name=mine:threshold=0.4")
    assert (judge.name, judge.threshold, judge.form.size) == ("mine", 0.4, 64)
    first, again, other = (judge.embed(p, FACE) for p in (portrait(1), portrait(1, photo=1), portrait(2)))
    cosine = [float(first @ v / np.linalg.norm(first) / np.linalg.norm(v)) for v in (again, other)]
    assert cosine[0] > 0.95 > 0.6 > cosine[1]


@pytest.mark.parametrize(("options", "expected"), [("32:rgb", (200, 100, 50)), ("32:bgr:mean=50:scale=50", (0, 1, 3))])
def test_an_onnx_judge_gets_the_channels_and_numbers_it_wants(tmp_path, options, expected):
    _onnx(tmp_path / "mean.onnx")
    judge = judge_from_spec(f"{tmp_path / 'mean.onnx'}:{options}")
    plain = np.zeros((112, 112, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    assert judge.embed(plain, FACE) == pytest.approx(expected, abs=1e-3)


def test_the_format_may_lie_beside_the_file(tmp_path):
    _onnx(tmp_path / "mean.onnx")
    form = {"size": 32, "order": "bgr", "template": ARCFACE.tolist(), "threshold": 0.5}
    (tmp_path / "mean.onnx.json").write_text(json.dumps(form))
    judge = judge_from_spec(str(tmp_path / "mean.onnx"))
    assert (judge.form.size, judge.form.order, judge.threshold) == (32, "bgr", 0.5)
    (tmp_path / "mean.onnx.json").write_text('{"side": 32}')
    with pytest.raises(EvaluationError, match="unknown key"):
        judge_from_spec(str(tmp_path / "mean.onnx"))


@pytest.mark.parametrize(
    ("options", "mean", "scale"),
    [
        ("", 127.5, 127.5),
        (":name=mine", 127.5, 127.5),
        (":threshold=0.3", 127.5, 127.5),
        (":preset=arcface:mean=0", 0, 127.5),
        (":preset=raw", 0, 1),
        (":112:rgb", 0, 1),
    ],
)
def test_an_onnx_file_gets_what_arcface_gets_unless_a_format_is_named(tmp_path, options, mean, scale):
    _onnx(tmp_path / "mean.onnx", side=112)
    judge = judge_from_spec(f"{tmp_path / 'mean.onnx'}{options}")
    colour = np.array([200, 100, 50], np.uint8)
    plain = np.zeros((112, 112, 3), np.uint8) + colour
    assert judge.embed(plain, FACE) == pytest.approx((colour - mean) / scale, abs=1e-3)
    assert np.array_equal(judge.form.template, ARCFACE)


@pytest.mark.parametrize(
    ("operator", "options", "message"),
    [
        ("GlobalAveragePool", "", r"does not take a float32 batch of \(1, 3, 112, 112\)"),
        ("ReduceMean", ":32", "gives 1 number a face"),
        ("NoSuchOperator", ":32", "mean.onnx is no ONNX model"),
    ],
)
def test_an_onnx_file_that_is_no_recogniser_is_refused(tmp_path, operator, options, message):
    _onnx(tmp_path / "mean.onnx", operator)
    with pytest.raises(EvaluationError, match=message):
        judge_from_spec(f"{tmp_path / 'mean.onnx'}{options}")


@pytest.mark.parametrize("text", ["", "{", "[112]", '{"preset": "facenet"}', '{"template": "frontal"}'])
def test_a_format_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "net.onnx.json").write_text(text)
    with pytest.raises(EvaluationError, match=r"net\.onnx\.json|must be one of"):
        judge_from_spec(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "net",
        "net.pth",
        "nowhere.pt",
        "{}:9999",
        "{}:grb",
        "{}:mean=dark",
        "{}:colour=1",
        "{}:frontal",
        "{}:preset=facenet",
    ],
)
def test_a_judge_that_is_none_is_refused(judge_file, spec):
    with pytest.raises(EvaluationError):
        judge_from_spec(spec.format(judge_file))


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"no network")
    with pytest.raises(EvaluationError, match="no TorchScript file"):
        judge_from_spec(str(tmp_path / "net.pt"))


def test_the_identity_encoder_may_not_judge(judge_file, tmp_path):
    (tmp_path / "id_encoder").mkdir()
    (tmp_path / "id_encoder" / "model.safetensors").write_bytes(judge_file.read_bytes())
    assert id_encoder_hashes(tmp_path) == (sha256_of(judge_file),)
    assert id_encoder_hashes(tmp_path / "id_encoder") == (sha256_of(judge_file),)
    with pytest.raises(EvaluationError, match="no identity encoder in"):  # else nothing would be kept out, silently
        id_encoder_hashes(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="identity encoder or its teacher"):
        judge_from_spec(f"{judge_file}:64", forbidden=id_encoder_hashes(tmp_path))


def test_nor_may_its_teacher(judge_file, monkeypatch):
    monkeypatch.setattr(judges, "TEACHER_SHA256", sha256_of(judge_file))
    with pytest.raises(EvaluationError, match="teacher"):
        judge_from_spec(f"{judge_file}:64")


def test_dlib_knows_the_astronaut_again_and_not_a_blank():
    data = pytest.importorskip("skimage.data")
    if importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("dlib-bin and face_recognition_models are not installed (extra eval)")
    from deid_diffusion.evaluation.detectors import DlibDetector

    judge, picture = judge_from_spec("dlib"), data.astronaut()
    (face,) = DlibDetector()(picture)
    blank = picture.copy()
    x0, y0, x1, y1 = face.box.astype(int)
    blank[y0:y1, x0:x1] = 0
    dim = (picture * 0.8).astype(np.uint8)
    own, same, nobody = (judge.embed(p, face) for p in (picture, dim, blank))
    cosine = [float(own @ v / np.linalg.norm(own) / np.linalg.norm(v)) for v in (same, nobody)]
    assert own.shape == (128,)
    assert cosine[0] > judge.threshold > cosine[1]


def test_a_batch_is_channels_first_in_the_order_wanted():
    crop = np.zeros((4, 4, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    assert to_batch(crop, "bgr", mean=(10.0, 10.0, 10.0), scale=10.0)[0, :, 0, 0].tolist() == [2, 1, 0]
    assert to_batch(crop, "rgb").dtype == np.float32
    assert all(t.shape == (5, 2) for t in TEMPLATES.values())


def test_a_modern_recogniser_needs_no_option_but_its_file(shared):
    """Its terms keep it out of the repository; without it there is nothing to try."""
    path, detect = shared / "judges" / "rec_w600k_mbf_int8.onnx", shared / "judges" / "yunet_n_640_640.onnx"
    if not (path.is_file() and detect.is_file()):
        pytest.skip(f"no {path.name} in {path.parent}")
    judge, detector = judge_from_spec(str(path)), detector_from_spec(f"yunet:{detect}")
    assert judge.name == "rec_w600k_mbf_int8"
    rows = []
    for side in ("probe", "gallery"):
        pictures = [read_picture(shared / "eval" / "congress" / side / f"{n:03}.jpg").pixels for n in (1, 2, 3)]
        rows.append(np.stack([judge.embed(pixels, detector(pixels)[0]) for pixels in pictures]))
    assert rows[0].shape == (3, 512)
    probes, gallery = map(unit_norm, rows)
    assert (probes @ gallery.T).argmax(1).tolist() == [0, 1, 2]
