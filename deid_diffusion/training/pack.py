"""Packs trained parts into the weights that ship: pipeline folder, identity bank, thresholds, hashes.

deid train pack --data faces/ --inpaint runs/inpaint --guide runs/id_encoder --reader runs/reader --out weights
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from transformers import ResNetForImageClassification

from deid_diffusion.attributes import FaceReader
from deid_diffusion.face_shape import EXPRESSION_NAMES, FaceShape
from deid_diffusion.identities import MATCHED, IdentityBank
from deid_diffusion.light import LIGHT_NAMES, read_light
from deid_diffusion.likeness import FILE as LIKENESS
from deid_diffusion.likeness import Likeness, pooled
from deid_diffusion.paths import write_hashes
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.probes import FILE as PROBES
from deid_diffusion.training.data import FaceSet, Jitter, cut, load_faces
from deid_diffusion.training.people import apart, geometry_of
from deid_diffusion.training.run import option, parse_options, write_json

log = logging.getLogger(__name__)
TEACHER_THRESHOLD = 0.34  # its own at a false accept rate of 0.1 %


@dataclass(frozen=True)
class Options:
    """What `deid train pack` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz: the people of the bank")
    inpaint: str = option("runs/inpaint", "folder that `deid train inpaint` (or distill) wrote")
    guide: str = option("runs/id_encoder", "folder that `deid train id_encoder` wrote")
    reader: str = option("runs/reader", "folder that `deid train reader` wrote")
    out: str = option("weights", "gets face256/ and reader/")
    people: int = option(2000, "identities in the bank")
    labels: str = option("", "npz that `deid train label` wrote: who wears glasses is left out of the bank, and the "
                         "probes beside it go to the reader")  # fmt: skip
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


def build_bank(faces: FaceSet, shape: FaceShape, count: int) -> IdentityBank:
    """The most different people of the training split, by farthest-point sampling on their embeddings.

    Their embeddings stand further from the crowd than in life (see `people.py`), or painted they would be cousins.
    """
    # An embedding of somebody with glasses brings the glasses, whatever the attribute says.
    bare = ~(faces.attributes[:, ATTRIBUTE_NAMES.index("glasses")] > 0.3)
    numbers = torch.nonzero(faces.train & bare)[:, 0]
    chosen = numbers[spread(faces.embedding[numbers], count)].cpu()
    attributes = faces.attributes.clone()
    for part in chosen.split(64):
        images = faces.images[part].float() / 127.5 - 1
        light = read_light(images, faces.landmarks[part, :, :2])
        for column, name in enumerate(LIGHT_NAMES):
            attributes[part, ATTRIBUTE_NAMES.index(name)] = light[:, column]
    expression = attributes[:, [ATTRIBUTE_NAMES.index(name) for name in EXPRESSION_NAMES]].cpu().numpy()
    person = [
        geometry_of(shape, faces.landmarks[number].cpu().numpy().astype(float), expression[number])
        for number in chosen.tolist()
    ]
    matched = attributes[chosen][:, [ATTRIBUTE_NAMES.index(name) for name in MATCHED]]
    people = faces.embedding[chosen]
    return IdentityBank(
        apart(people, people.mean(0)).cpu().numpy(), np.stack(person).astype(np.float32), matched.cpu().numpy()
    )


def spread(embedding: torch.Tensor, count: int) -> torch.Tensor:
    """(N, D) -> (count,) numbers: each next one is the farthest from all chosen so far (Gonzalez 1985)."""
    count = min(count, len(embedding))
    chosen = [0]
    nearest = embedding @ embedding[0]
    for _ in range(count - 1):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, embedding @ embedding[chosen[-1]])
    return torch.tensor(chosen, device=embedding.device)


@torch.no_grad()
def calibrate(guide: ResNetForImageClassification, faces: FaceSet) -> dict[str, float]:
    """The guide's similarity thresholds at three false accept rates, on pairs of different hold-out people.

    Generated portraits repeat themselves: pairs that the teacher itself takes for one person are left out, or the
    thresholds would be those of twins.
    """
    numbers = torch.nonzero(~faces.train)[:, 0]
    parts = [embed(guide, faces.images[part].float() / 127.5 - 1) for part in numbers.split(32)]
    embedding, teacher = torch.cat(parts), faces.embedding[numbers]
    upper = tuple(torch.triu_indices(len(embedding), len(embedding), 1))
    different = (teacher @ teacher.T)[upper] < TEACHER_THRESHOLD
    impostors = (embedding @ embedding.T)[upper][different].cpu().numpy()
    rates = {f"far_{rate}": round(float(np.quantile(impostors, 1 - rate)), 4) for rate in (0.001, 0.01, 0.05)}
    return rates | {"impostor_mean": round(float(impostors.mean()), 4), "pairs": len(impostors)}


@torch.no_grad()
def fit_likeness(reader: FaceReader, faces: FaceSet, count: int = 1500) -> Likeness:
    """What the crops of the training split look like to the reader."""
    generator = torch.Generator().manual_seed(0)
    rows: list[list[torch.Tensor]] = []
    for _ in range(0, count, 50):
        crops = cut(faces, faces.draw(50, generator), Jitter(degrade=0.0), generator).image.clamp(-1, 1)
        rows.append(pooled(reader.states(crops)))
    return Likeness.fit([torch.cat(stage) for stage in zip(*rows, strict=True)])


def pack(options: Options) -> None:
    """Writes `out/face256` and `out/reader`."""
    if options.threads:
        torch.set_num_threads(options.threads)
    out, inpaint, guide_run, reader_run = (
        Path(p) for p in (options.out, options.inpaint, options.guide, options.reader)
    )
    faces = load_faces(Path(options.data), limit=options.limit or None, labels=options.labels)
    guide = ResNetForImageClassification.from_pretrained(guide_run / "id_encoder", dtype=torch.float32).eval()
    reader = out / "reader"
    shutil.rmtree(reader, ignore_errors=True)
    shutil.copytree(reader_run / "network", reader / "network")
    shutil.copy(reader_run / "face_shape.safetensors", reader)
    shutil.copy(reader_run / "training.json", reader)
    probes = Path(options.labels).with_suffix(".safetensors")
    if options.labels and probes.exists():
        shutil.copy(probes, reader / PROBES)
    eyes = FaceReader.from_pretrained(reader)
    fit_likeness(eyes, faces).save(reader / LIKENESS)
    write_hashes(reader)
    folder = out / "face256"
    shutil.rmtree(folder, ignore_errors=True)
    unet = UNet2DConditionModel.from_pretrained(inpaint / "unet", dtype=torch.float16)
    unet.register_to_config(_name_or_path="")  # a run's folder on somebody's disk
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(inpaint / "scheduler")
    pipeline = FaceInpaintPipeline(unet, scheduler, ResNetForImageClassification.from_pretrained(
        guide_run / "id_encoder", dtype=torch.float16))  # fmt: skip
    pipeline.save_pretrained(folder, max_shard_size="15MB")
    write_json(calibrate(guide, faces), folder / "thresholds.json")
    build_bank(faces, eyes.shape, options.people).save(folder / "identities.safetensors")
    for run, name in ((inpaint, "unet"), (guide_run, "id_encoder")):
        shutil.copy(run / "training.json", folder / f"{name}_training.json")
    write_hashes(folder)


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pack(parse_options(Options, argv, __doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
