"""Builds tiny real checkpoints of the Stable Diffusion family: the classes of the real ones, seconds on a CPU."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
)

from deid_diffusion.pipelines.sd_face_inpaint import StableDiffusionFaceInpaintPipeline
from deid_diffusion.pipelines.sdxl_face_inpaint import StableDiffusionXLFaceInpaintPipeline

SIZE = 64
WIDTH = 32
DIM = 16
WORDS = [
    "portrait",
    "photo",
    "of",
    "a",
    "year",
    "old",
    "person",
    "man",
    "woman",
    "smiling",
    "looking",
    "left",
    "right",
]


def scheduler(**changes) -> DDIMScheduler:
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**options, set_alpha_to_one=False, steps_offset=1, **changes)


def unet(in_channels: int = 9, **changes) -> UNet2DConditionModel:
    torch.manual_seed(0)
    options = {
        "sample_size": SIZE // 8,
        "in_channels": in_channels,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**options, **changes}).eval()


def xl_unet(in_channels: int = 9) -> UNet2DConditionModel:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return unet(in_channels, cross_attention_dim=2 * WIDTH, **added, projection_class_embeddings_input_dim=WIDTH + 48)


def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    widths = (16, 16, 16, 16)
    down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    model = AutoencoderKL(
        block_out_channels=widths, down_block_types=down, up_block_types=up, latent_channels=4, norm_num_groups=8
    )
    return model.eval()


def tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(2)
    widths = (16, 16, 16, 16)
    blocks = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    return AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths, **blocks).eval()


def text_encoder(projected: bool = False):
    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=600,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer from a vocabulary in code: letters, and the words of our prompts letter by letter."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def controlnet(base: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet with weights that are not zero, so that it shows."""
    torch.manual_seed(4)
    options = {"conditioning_embedding_out_channels": (8, 8, 8, 8)}
    model = ControlNetModel(
        in_channels=4,
        block_out_channels=base.config.block_out_channels,
        down_block_types=base.config.down_block_types,
        layers_per_block=1,
        cross_attention_dim=base.config.cross_attention_dim,
        attention_head_dim=8,
        norm_num_groups=8,
        addition_embed_type=base.config.addition_embed_type,
        addition_time_embed_dim=base.config.addition_time_embed_dim,
        projection_class_embeddings_input_dim=base.config.projection_class_embeddings_input_dim,
        **options,
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def id_encoder() -> ResNetForImageClassification:
    torch.manual_seed(5)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=DIM)
    return ResNetForImageClassification(config).eval()


def sd_parts(folder: Path, in_channels: int = 9) -> dict:
    return {
        "vae": vae(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(folder / "words"),
        "unet": unet(in_channels),
        "scheduler": scheduler(),
        "id_encoder": id_encoder(),
        "preview_vae": tiny_vae(),
    }


def sd_pipe(
    folder: Path, in_channels: int = 9, control: bool = False, **changes
) -> StableDiffusionFaceInpaintPipeline:
    parts = {**sd_parts(folder, in_channels), **changes}
    if control:
        parts["controlnet"] = controlnet(parts["unet"])
    return quiet(StableDiffusionFaceInpaintPipeline(**parts))


def sdxl_pipe(folder: Path, in_channels: int = 9, control: bool = False, **changes):
    parts = {**sd_parts(folder, in_channels), "unet": xl_unet(in_channels)}
    parts |= {"text_encoder_2": text_encoder(projected=True), "tokenizer_2": parts["tokenizer"], **changes}
    if control:
        parts["controlnet"] = controlnet(parts["unet"])
    return quiet(StableDiffusionXLFaceInpaintPipeline(**parts))


def hub_cache(cache: Path, name: str, source: Path, files: Sequence[Path] = ()) -> str:
    """Lays a checkpoint, with the files of its code, into a Hub cache made by hand; returns its commit."""
    commit = "c0ffee" + "0" * 34
    repo = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, repo / "snapshots" / commit)
    for path in files:
        shutil.copyfile(path, repo / "snapshots" / commit / path.name)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    return commit


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inputs(batch: int = 1, steps: int = 3) -> dict:
    """A call's arguments: noise crops, an off-centre mask, one generator a face."""
    noise = torch.Generator().manual_seed(9)
    image = (torch.rand(batch, SIZE, SIZE, 3, generator=noise) * 255).byte()
    mask = torch.zeros(batch, 1, SIZE, SIZE)
    mask[:, :, 13:50, 10:45] = 1
    return {
        "image": image.numpy(),
        "mask_image": mask,
        "num_inference_steps": steps,
        "generator": [torch.Generator().manual_seed(100 + face) for face in range(batch)],
        "output_type": "pt",
    }


def mesh(batch: int = 1) -> torch.Tensor:
    """(B, 478, 2): points somewhere in the crop."""
    return torch.rand(batch, 478, 2, generator=torch.Generator().manual_seed(4)) * SIZE
