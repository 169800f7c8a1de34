"""Nobody is contacted and nobody is given a number: every entry point, in an empty home, without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.telemetry import SWITCHES

from .fakes import photo

CHECKOUT = Path(__file__).parent.parent
# A hook sees sockets below every library of Python's, and those of forked senders; who swallows the error is noted.
WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        with open(os.environ["CONTACTS"], "a") as file:
            file.write(f"{event} {args[1:]}\\n")
        raise OSError("nobody is to be contacted")
sys.addaudithook(watch)
"""
DEID = "from deid_diffusion.cli import main\nraise SystemExit(main(sys.argv[1:]))"
PING = "\nfrom huggingface_hub.utils import send_telemetry\nsend_telemetry('ping')\nimport time; time.sleep(0.5)\n"


def watched(code: str, *words: object, folder: Path) -> tuple[int, str, list[str]]:
    """Exit code, stderr, and whom or what a fresh process contacted or left in its home."""
    home, contacts = folder / "home", folder / "contacts"
    home.mkdir()
    own = {"HOME": home, "USERPROFILE": home, "TMPDIR": folder, "DEID_CACHE": folder / "cache", "CONTACTS": contacts}
    # As somebody would have it who allows everything; under CI openvino would keep still by itself.
    spoiled = {name: "True" if value == "False" else "0" for name, value in SWITCHES.items()}
    unwanted = ("CI", "TF_BUILD", "JENKINS_URL")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", *unwanted))}
    command = [sys.executable, "-c", WATCH + code, *map(str, words)]
    done = subprocess.run(
        [*alone(), *command], env=kept | spoiled | {k: str(v) for k, v in own.items()},
        capture_output=True, text=True, timeout=300, cwd=CHECKOUT,
    )  # fmt: skip
    left = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return done.returncode, done.stderr, left + (contacts.read_text().splitlines() if contacts.exists() else [])


def alone() -> list[str]:
    """Starts a command without a network, where the system lets us: what escapes the hook reaches nobody."""
    cut = ["unshare", "--user", "--map-current-user", "--net"]
    works = shutil.which("unshare") and subprocess.run([*cut, "true"], capture_output=True).returncode == 0
    return cut if works else []


def test_the_watch_sees_contacts_and_files(tmp_path):
    code = """
import pathlib, socket
(pathlib.Path.home() / "id").write_text("7")
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
"""
    _, _, found = watched(code, folder=tmp_path)
    assert found[0] == "id"
    assert found[1].startswith("socket.getaddrinfo")


@pytest.mark.parametrize("first", ["import deid_diffusion", "import huggingface_hub, diffusers.utils, deid_diffusion"])
def test_the_hub_gets_no_ping_whoever_is_imported_first(tmp_path, first):
    said = "\nfrom diffusers.utils.hub_utils import http_user_agent\nassert 'telemetry/off' in http_user_agent()"
    assert watched(first + PING + said, folder=tmp_path) == (0, "", [])


@pytest.mark.parametrize("words", [["--version"], ["run", "--set", "help"], ["train", "estimator", "--help"]])
def test_commands_that_only_talk(tmp_path, words):
    assert watched(DEID, *words, folder=tmp_path) == (0, "", [])


def test_deid_run(tmp_path, weights):
    words = ["run", photo(tmp_path / "p.png", 64), "-o", tmp_path / "out.png"]
    code, err, found = watched(DEID, *words, folder=tmp_path)
    assert (code, found) == (0, []), err
    assert (tmp_path / "out.png").exists()


def test_deid_eval_with_an_openvino_net(tmp_path, astronaut):
    openvino = pytest.importorskip("openvino", reason="needs openvino; pip install 'deid-diffusion[openvino]'")
    from openvino import opset13 as ops
    from PIL import Image

    batch = ops.parameter([1, 3, 62, 62], np.float32, name="data")
    net = tmp_path / "net.xml"
    openvino.save_model(openvino.Model([ops.relu(batch)], [batch]), net, compress_to_fp16=False)
    code = (
        "from pathlib import Path\nimport numpy as np\nfrom deid_diffusion.evaluation.judges import load_net\n"
        "print(load_net(Path(sys.argv[1]))(np.ones((1, 3, 62, 62), np.float32))[0].sum())"
    )
    (tmp_path / "net").mkdir()
    assert watched(code, net, folder=tmp_path / "net") == (0, "", [])
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        Image.fromarray(astronaut).save(tmp_path / folder / "a.png")
    words = ["eval", tmp_path / "in", tmp_path / "out", "-o", tmp_path / "eval", "--net", f"age={net}"]
    (tmp_path / "eval_home").mkdir()
    _, err, found = watched(DEID, *words, "--finder", "centerface", folder=tmp_path / "eval_home")
    assert found == [], err


def test_the_python_api(tmp_path, weights):
    code = (
        "import deid_diffusion, numpy as np\n"
        "anonymize = deid_diffusion.FaceAnonymizer.from_pretrained()\n"
        "anonymize(np.zeros((64, 64, 3), np.uint8), boxes=[[10, 10, 50, 60]])"
    )
    code, err, found = watched(code, folder=tmp_path)
    assert (code, found) == (0, []), err


def test_onnxruntime_leaves_no_device_id(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx; pip install onnxruntime onnx")
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime; pip install onnxruntime onnx")
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", sides[:1], sides[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    code = (
        "from pathlib import Path\nimport numpy as np\nfrom deid_diffusion.evaluation.judges import load_net\n"
        "load_net(Path(sys.argv[1]))(np.ones(1, np.float32))\n"
        "from deid_diffusion.models.backends import use_backend\nfrom tests.tiny import tiny_pipeline\n"
        "print(use_backend(tiny_pipeline(), 'onnx'))"
    )
    code, err, found = watched(code, tmp_path / "n.onnx", folder=tmp_path)
    assert (code, found) == (0, []), err
