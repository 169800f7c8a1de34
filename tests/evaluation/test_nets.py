from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.measure import FaceMeasurer
from deid_diffusion.evaluation.nets import FaceNets, NetOptions, five_points
from deid_diffusion.evaluation.pairing import HashedPicture
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.types import Face
from deid_diffusion.weight_files import sha256_of
from tests.evaluation.conftest import BOX, LANDMARKS, KnowingDetector, portrait

FACE = Face(BOX, LANDMARKS)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> NetOptions:
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("nets")

    class Age(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean(dim=[1, 2, 3], keepdim=True)[:, :, 0, 0] * 0 + 30, torch.tensor([[0.0, 2.0]])

    class Fixed(torch.nn.Module):
        def __init__(self, values: list[float]):
            super().__init__()
            self.values = torch.tensor([values])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.values

    class Maps(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x[:, :, ::2, ::2]]

    nets = {"age_gender": Age(), "expression": Fixed([0, 5.0, 0, 0, 0, 0, 0]), "landmarks": Fixed([0.5] * 136)}
    paths = {}
    for kind, net in {**nets, "features": Maps()}.items():
        paths[kind] = folder / f"{kind}.pt"
        torch.jit.script(net).save(str(paths[kind]))
    return NetOptions(**paths)


def test_every_net_is_asked_in_its_own_format(options):
    nets, picture = FaceNets(options), portrait(0)
    assert nets.age_male(picture, FACE) == pytest.approx([30, 1 / (1 + np.exp(2))])
    assert nets.expression(picture, FACE).argmax() == 1
    assert nets.landmarks(picture, FACE) == pytest.approx(np.tile([55, 55], (68, 1)))
    assert nets.features(picture, FACE).shape == (3,)
    assert (set(nets.hashes), nets.names["features"]) == (set(nets.names), "features")


@pytest.mark.parametrize("given", [True, False])
def test_what_no_net_can_read_is_not_a_number(options, given):
    measurer = FaceMeasurer(KnowingDetector(), (), FaceNets(options if given else NetOptions()), ArrayCache())
    measurement = measurer.measure_face(HashedPicture(portrait(0), "digest"), FACE)
    assert np.isfinite(measurement.age) == given
    assert np.isfinite(measurement.expression).all() == given
    assert len(measurement.features) == (3 if given else 0)
    assert np.isfinite(measurement.ita_deg)
    assert np.isfinite(measurement.conditioning()).sum() == (136 + 10 if given else 11)


@pytest.fixture(scope="module")
def pose_net(tmp_path_factory) -> Path:
    """An OpenVINO model that takes blue for yaw, green for pitch, red for roll; named as the Open Model Zoo's."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    batch = ops.parameter([1, 3, 60, 60], np.float32, name="data")
    means = ops.reduce_mean(batch, np.array([2, 3]), keep_dims=False)
    outputs = []
    for channel, name in enumerate(("angle_y_fc", "angle_p_fc", "angle_r_fc")):
        one = ops.gather(means, np.array([channel]), np.array(1))
        one.output(0).get_tensor().set_names({name})
        outputs.append(one)
    path = tmp_path_factory.mktemp("pose") / "pose.xml"
    openvino.save_model(openvino.Model(outputs, [batch]), path, compress_to_fp16=False)
    return path


def test_a_pose_net_says_the_angles_instead_of_five_points(pose_net):
    nets = FaceNets(NetOptions(pose=pose_net))
    picture = np.zeros((200, 200, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    measurer = FaceMeasurer(KnowingDetector(), (), nets, ArrayCache())
    assert measurer.measure_face(HashedPicture(picture, "digest"), FACE).pose_deg == pytest.approx([30, 20, 10])
    without = FaceMeasurer(KnowingDetector(), (), FaceNets(NetOptions()), ArrayCache())
    assert without.measure_face(HashedPicture(picture, "digest"), FACE).pose_deg != pytest.approx([30, 20, 10])


def test_a_pose_net_is_known_by_its_weights(pose_net, tmp_path):
    assert FaceNets(NetOptions(pose=pose_net)).hashes["pose"] == sha256_of(pose_net.with_suffix(".bin"))
    alone = tmp_path / "pose.xml"
    alone.write_bytes(pose_net.read_bytes())
    with pytest.raises(EvaluationError, match=r"no file for net pose: .*pose\.bin"):
        FaceNets(NetOptions(pose=alone))


def test_what_is_no_openvino_model_is_said_to_be_none(tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "pose.xml"
    path.write_text("<net>")
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(EvaluationError, match="pose.xml with pose.bin beside it is no OpenVINO model"):
        FaceNets(NetOptions(pose=path))


def test_68_points_hold_the_five():
    points = np.zeros((68, 2))
    points[36:42], points[42:48], points[30], points[48], points[54] = 1, 2, 3, 4, 5
    assert five_points(points)[:, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("spec", ["age=net.pt", "age_gender", "age_gender="])
def test_a_net_that_is_none_is_refused(spec):
    with pytest.raises(EvaluationError, match="KIND=FILE"):
        NetOptions.from_specs((spec,))


def test_nets_are_given_by_name():
    assert NetOptions.from_specs(("features=a/b.onnx",)) == NetOptions(features=Path("a/b.onnx"))
    with pytest.raises(EvaluationError, match="no file for net features"):
        FaceNets(NetOptions(features=Path("nowhere.pt")))
