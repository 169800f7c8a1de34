"""Packs trained parts into the weights that ship: pipeline folder, identity bank, thresholds, hashes.

    deid train pack --data faces/ --inpaint runs/inpaint --id-encoder runs/id_encoder --estimator runs/estimator \\
        --out weights
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel
from transformers import ResNetForImageClassification

from deid_diffusion.faces.apertures import FOLDER as APERTURES
from deid_diffusion.faces.attribute_classifiers import FILE as CLASSIFIERS
from deid_diffusion.faces.estimator import FaceEstimator
from deid_diffusion.faces.face_shape import EXPRESSION_NAMES, FaceShape
from deid_diffusion.faces.ood_score import FILE as OOD_SCORE
from deid_diffusion.faces.ood_score import OODScore, pooled
from deid_diffusion.faces.skin import LIGHT_NAMES, read_light
from deid_diffusion.methods.appearance import GROUPS, AppearanceGroups
from deid_diffusion.methods.identity_bank import MATCHED, IdentityBank
from deid_diffusion.models.loading import IDENTITIES
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.training.data import FaceSet, Jitter, augmented_batch, load_faces
from deid_diffusion.training.identity import decorrelate, identity_coefficients
from deid_diffusion.training.run import option, run_command, write_json
from deid_diffusion.weight_files import write_hashes

TEACHER_THRESHOLD = 0.34  # cosine of the teacher's embeddings at a false accept rate of 0.1 %


@dataclass(frozen=True)
class Options:
    """What `deid train pack` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz: the people of the bank")
    inpaint: str = option("runs/inpaint", "folder that `deid train inpaint` (or distill) wrote")
    id_encoder: str = option("runs/id_encoder", "folder that `deid train id_encoder` wrote")
    detail: str = option("", "folder of a network that `deid train detail` wrote; empty for crops of 256 px")
    estimator: str = option("runs/estimator", "folder that `deid train estimator` wrote")
    apertures: str = option("", "folder that `deid train apertures` wrote; empty for none")
    out: str = option("weights", "gets face256/ and face_estimator/")
    identities: int = option(2000, "identities in the bank")
    labels: str = option("", "npz that `deid train label` wrote: who wears glasses is left out of the bank, and the "
                         "classifiers beside it go to the estimator")  # fmt: skip
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


@torch.no_grad()
def build_bank(
    faces: FaceSet, shape: FaceShape, count: int, id_encoder: ResNetForImageClassification | None = None
) -> IdentityBank:
    """The most different people of the training split, by farthest-point sampling on their embeddings.

    Their embeddings stand further from the mean than in life (see `identity.py`), or the generated would be cousins.

    Args:
        faces: crops with labels.
        shape: gives the identity coefficients.
        count: how many people.
        id_encoder: tells groups of looks apart, see `AppearanceGroups`; None for a bank without.
    """
    # An embedding of somebody with glasses brings the glasses, whatever the attribute says.
    bare = ~(faces.attributes[:, ATTRIBUTE_NAMES.index("glasses")] > 0.3)
    numbers = torch.nonzero(faces.train & bare)[:, 0]
    chosen = numbers[farthest_points(faces.embedding[numbers], count)].cpu()
    attributes = faces.attributes.clone()
    for part in chosen.split(64):
        images = faces.images[part].float() / 127.5 - 1
        light = read_light(images, faces.landmarks[part, :, :2])
        for column, name in enumerate(LIGHT_NAMES):
            attributes[part, ATTRIBUTE_NAMES.index(name)] = light[:, column]
    expression = attributes[:, [ATTRIBUTE_NAMES.index(name) for name in EXPRESSION_NAMES]].cpu().numpy()
    person = [
        identity_coefficients(shape, faces.landmarks[number].cpu().numpy().astype(float), expression[number])
        for number in chosen.tolist()
    ]
    matched = attributes[chosen][:, [ATTRIBUTE_NAMES.index(name) for name in MATCHED]]
    people = faces.embedding[chosen]
    bank = IdentityBank(
        decorrelate(people, people.mean(0)).cpu().numpy(), np.stack(person).astype(np.float32), matched.cpu().numpy()
    )
    if id_encoder is None:
        return bank
    # By what the encoder sees in the crops: at run time it looks at a photo, too.
    seen = [embed(id_encoder, faces.images[part].float() / 127.5 - 1).cpu() for part in chosen.split(32)]
    seen, known = torch.cat(seen).numpy(), np.nan_to_num(bank.attributes)
    groups = AppearanceGroups.fit(seen, known, min(GROUPS, len(seen)))
    return replace(bank, appearance=groups(seen, known).astype(np.float32), groups=groups)


def farthest_points(embedding: torch.Tensor, count: int) -> torch.Tensor:
    """(N, D) -> (count,) numbers: each next one is the farthest from all chosen so far (Gonzalez 1985)."""
    count = min(count, len(embedding))
    chosen = [0]
    nearest = embedding @ embedding[0]
    for _ in range(count - 1):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, embedding @ embedding[chosen[-1]])
    return torch.tensor(chosen, device=embedding.device)


@torch.no_grad()
def similarity_thresholds(id_encoder: ResNetForImageClassification, faces: FaceSet) -> dict[str, float]:
    """The identity encoder's similarity thresholds at three false accept rates, on pairs of different hold-out people.

    Generated portraits repeat themselves: pairs that the teacher itself takes for one person are left out, or the
    thresholds would be those of twins.

    Args:
        id_encoder: in evaluation.
        faces: crops with the teacher's embeddings.

    Returns:
        cosines `far_0.001`, `far_0.01`, `far_0.05`; mean of all pairs, and how many.
    """
    numbers = torch.nonzero(~faces.train)[:, 0]
    parts = [embed(id_encoder, faces.images[part].float() / 127.5 - 1) for part in numbers.split(32)]
    embedding, teacher = torch.cat(parts), faces.embedding[numbers]
    upper = tuple(torch.triu_indices(len(embedding), len(embedding), 1))
    different = (teacher @ teacher.T)[upper] < TEACHER_THRESHOLD
    impostors = (embedding @ embedding.T)[upper][different].cpu().numpy()
    rates = {f"far_{rate}": round(float(np.quantile(impostors, 1 - rate)), 4) for rate in (0.001, 0.01, 0.05)}
    return rates | {"impostor_mean": round(float(impostors.mean()), 4), "pairs": len(impostors)}


@torch.no_grad()
def fit_ood_score(estimator: FaceEstimator, faces: FaceSet, count: int = 1500) -> OODScore:
    """Fits the out-of-distribution score on the estimator's features of crops of the training split.

    Args:
        estimator: whose features they are.
        faces: to draw from.
        count: how many crops, rounded up to a multiple of 50.
    """
    generator = torch.Generator().manual_seed(0)
    rows: list[list[torch.Tensor]] = []
    for _ in range(0, count, 50):
        crops = augmented_batch(faces, faces.draw(50, generator), Jitter(degrade=0.0), generator).image.clamp(-1, 1)
        rows.append(pooled(estimator.states(crops)))
    return OODScore.fit([torch.cat(stage) for stage in zip(*rows, strict=True)])


def pack(options: Options) -> None:
    """Writes `out/face256` and `out/face_estimator`."""
    if options.threads:
        torch.set_num_threads(options.threads)
    faces = load_faces(options.data, limit=options.limit, labels=options.labels)
    estimator = pack_estimator(options, faces)
    pack_pipeline(options, faces, estimator.shape)


def pack_estimator(options: Options, faces: FaceSet) -> FaceEstimator:
    """Writes `out/face_estimator`, and loads it.

    Args:
        options: the run, and where to write.
        faces: what the out-of-distribution score is fitted on.
    """
    run, folder = Path(options.estimator), Path(options.out) / "face_estimator"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "network", folder / "network")
    shutil.copy(run / "face_shape.safetensors", folder)
    shutil.copy(run / "training.json", folder)
    classifiers = Path(options.labels).with_suffix(".safetensors")
    if options.labels and classifiers.exists():
        shutil.copy(classifiers, folder / CLASSIFIERS)
    if options.apertures:
        shutil.copytree(Path(options.apertures) / APERTURES, folder / APERTURES)
        shutil.copy(Path(options.apertures) / "training.json", folder / f"{APERTURES}_training.json")
    estimator = FaceEstimator.from_pretrained(folder)
    fit_ood_score(estimator, faces).save(folder / OOD_SCORE)
    write_hashes(folder)
    return estimator


def pack_pipeline(options: Options, faces: FaceSet, shape: FaceShape) -> None:
    """Writes `out/face256`: pipeline, thresholds, identity bank, how the parts were trained, hashes.

    Args:
        options: the runs, and where to write.
        faces: the people of the bank.
        shape: of the estimator.
    """
    inpaint, run, folder = Path(options.inpaint), Path(options.id_encoder), Path(options.out) / "face256"
    shutil.rmtree(folder, ignore_errors=True)
    unet = UNet2DConditionModel.from_pretrained(inpaint / "unet", dtype=torch.float16)
    unet.register_to_config(_name_or_path="")  # a run's folder on somebody's disk
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(inpaint / "scheduler")
    id_encoder = ResNetForImageClassification.from_pretrained(run / "id_encoder", dtype=torch.float16).eval()
    detail = UNet2DModel.from_pretrained(options.detail, dtype=torch.float16) if options.detail else None
    if detail is not None:
        detail.register_to_config(_name_or_path="")
    FaceInpaintPipeline(unet, scheduler, id_encoder, detail).save_pretrained(folder, max_shard_size="15MB")
    write_json(similarity_thresholds(id_encoder.float(), faces), folder / "thresholds.json")
    build_bank(faces, shape, options.identities, id_encoder).save(folder / IDENTITIES)
    trained = {"unet": inpaint, "id_encoder": run} | (
        {"detail": Path(options.detail).parent} if options.detail else {}
    )
    for name, source in trained.items():
        shutil.copy(source / "training.json", folder / f"{name}_training.json")
    write_hashes(folder)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, pack, argv, __doc__)


if __name__ == "__main__":
    main()
