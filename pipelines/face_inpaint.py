"""Generates a new face in an erased crop: the custom Diffusers pipeline of the embedded model."""

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
from transformers import ResNetForImageClassification

# The Hub loader fetches the files that this one names, and no others.
from .conditioning import FIELDS  # noqa: F401
from .detail import FOLD  # noqa: F401
from .guidance import with_cfg  # noqa: F401
from .id_encoder import embed  # noqa: F401
from .inpainter import FaceInpainter
from .inputs import Crops  # noqa: F401
from .precondition import scale_input  # noqa: F401
from .repulsion import Repulsion  # noqa: F401
from .sampler import Sampler  # noqa: F401
from .schedule import Level  # noqa: F401


class FaceInpaintPipeline(FaceInpainter, DiffusionPipeline):
    """Inpaints faces in folded pixels, conditioned on landmarks, attributes and a target identity.

    Args:
        unet: predicts the scaled x0 of a crop whose pixels are folded into channels.
        scheduler: a rectified-flow scheduler.
        id_encoder: the identity encoder; its logits are the embedding. Needed only for `repulsion`.
        detail: gives finished faces the detail of a larger crop, in one forward; None for crops of the unet's size.
        fold_factor: side of the pixel block that becomes one unet cell.
    """

    model_cpu_offload_seq = "id_encoder->unet->detail"
    _optional_components = ["id_encoder", "detail"]  # noqa: RUF012  (diffusers reads it as a class list)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        id_encoder: ResNetForImageClassification = None,
        detail: UNet2DModel = None,
        fold_factor: int = 4,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, id_encoder=id_encoder, detail=detail)
        self.register_to_config(fold_factor=fold_factor)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_resize=False)
