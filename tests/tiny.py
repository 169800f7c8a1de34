"""Builds small but real components: the same classes as the shipped ones, a few thousand weights."""

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel

from deid_diffusion.faces.estimator import OUTPUTS, FaceEstimator
from deid_diffusion.faces.face_shape import FaceShape
from deid_diffusion.methods.identity_bank import IdentityBank
from deid_diffusion.pipelines.conditioning import FIELDS, POINTS
from deid_diffusion.pipelines.detail import CHANNELS_IN, CHANNELS_OUT, FOLD
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.training.resnet import build_resnet

DIM = 16


def tiny_unet(size: int = 32, attributes: int = len(FIELDS)) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=size // 4, in_channels=97 + len(POINTS), out_channels=48, block_out_channels=(16, 16),
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D", norm_num_groups=8, class_embed_type="projection", time_embedding_dim=32,
        projection_class_embeddings_input_dim=2 * attributes + DIM + 1, cross_attention_dim=8,
    ).eval()  # fmt: skip


def tiny_detail(size: int = 64) -> UNet2DModel:
    """Of crops of this side; what it adds is not nothing, as it would be before training."""
    torch.manual_seed(4)
    network = UNet2DModel(
        sample_size=size // FOLD, in_channels=CHANNELS_IN, out_channels=CHANNELS_OUT, block_out_channels=(16, 16),
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8, add_attention=False,
    ).eval()  # fmt: skip
    with torch.no_grad():
        network.conv_out.weight.mul_(0.1)
    return network


def tiny_pipeline(size: int = 32, detail: UNet2DModel | None = None) -> FaceInpaintPipeline:
    torch.manual_seed(1)
    guide = build_resnet((8, 8, 8, 8), DIM).eval()
    pipe = FaceInpaintPipeline(tiny_unet(size), FlowMatchEulerDiscreteScheduler(shift=3.0), guide, detail)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_shape() -> FaceShape:
    """An oval of 478 points with the named features where faces have them."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 478, endpoint=False)
    mean = np.stack([1.1 * np.cos(angle), 0.35 + 1.3 * np.sin(angle), 0.3 * np.cos(2 * angle)], 1)
    places = {
        468: (-0.5, 0, 0), 473: (0.5, 0, 0), 33: (-0.75, 0, 0.1), 133: (-0.25, 0, 0), 362: (0.25, 0, 0),
        263: (0.75, 0, 0.1), 159: (-0.5, -0.08, 0), 145: (-0.5, 0.08, 0), 386: (0.5, -0.08, 0), 374: (0.5, 0.08, 0),
        61: (-0.4, 1.1, 0), 291: (0.4, 1.1, 0), 13: (0, 1.08, -0.1), 14: (0, 1.12, -0.1), 1: (0, 0.6, -0.5),
        0: (0, 1.0, -0.1), 17: (0, 1.25, -0.1), 105: (-0.5, -0.4, 0), 334: (0.5, -0.4, 0),
        70: (-0.8, -0.32, 0), 63: (-0.65, -0.38, 0), 66: (-0.35, -0.39, 0), 107: (-0.2, -0.36, 0),
        300: (0.8, -0.32, 0), 293: (0.65, -0.38, 0), 296: (0.35, -0.39, 0), 336: (0.2, -0.36, 0),
    }  # fmt: skip
    for number, place in places.items():
        mean[number] = place
    expression = rng.normal(0, 0.02, (6, 478, 3))
    person = np.linalg.qr(rng.normal(size=(478 * 3, 4)))[0].T.reshape(4, 478, 3)
    return FaceShape(*(a.astype(np.float32) for a in (mean, np.full(6, 0.3), expression, person, np.full(4, 0.4))))


def tiny_estimator() -> FaceEstimator:
    """A real network that always answers about the average face, upright in the middle of the crop."""
    torch.manual_seed(2)
    shape, network = tiny_shape(), build_resnet((8, 8, 8, 8), OUTPUTS).eval()
    head = network.classifier[-1]
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.zero_()
        points = shape.mean * 0.25 + [0.5, 0.44, 0]
        head.bias[: 478 * 3] = torch.from_numpy(points.astype(np.float32)).flatten()
    return FaceEstimator(network, shape)


def tiny_bank(people: int = 12) -> IdentityBank:
    rng = np.random.default_rng(3)
    embedding = rng.normal(size=(people, DIM)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    attributes = np.stack([np.linspace(10, 80, people), np.arange(people) % 2, *np.full((3, people), 20)], 1)
    return IdentityBank(embedding, rng.normal(size=(people, 4)).astype(np.float32), attributes.astype(np.float32))
