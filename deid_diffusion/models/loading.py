"""Loads the crop-level pipeline that fits a checkpoint, from a folder or the Hub."""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import dataclass, field, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..messages import brief
from ..weight_files import check_hashes, weights_dir
from .checkpoint import Checkpoint, check_weights, clearer, components, find_checkpoint, hash_weights
from .components import FAILURES, load_parts
from .registry import FAMILIES, pick_family

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OPTIONS = ("variant", "use_safetensors")
IDENTITIES, THRESHOLDS = "identities.safetensors", "thresholds.json"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A pipeline, and what it was made from.

    Attributes:
        pipe: on its device.
        checkpoint: where its files lie.
        origin: family, name and revision of the checkpoint and of the parts that came from elsewhere, for reports.
        hashes: sha256 by "component/file" of the weights that were read.
    """

    pipe: Any
    checkpoint: Checkpoint
    origin: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def load_pipeline(
    model: str | PathLike,
    pipeline: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
    **parts: Any,
) -> Any:
    """Loads the crop-level pipeline that fits a checkpoint. Nothing is fetched but the repositories named.

    Args:
        model: folder of a diffusers checkpoint, or its name on the Hub ("org/name").
        pipeline: "face256", "sd" or "sdxl"; by default what the checkpoint is.
        revision: commit of a Hub checkpoint; pin it, a branch can change or vanish.
        dtype: precision of the weights, as a torch.dtype or its name; the identity encoder stays in float32.
        device: where it is to run.
        parts: components that replace or complete the checkpoint's: `controlnet`, `preview_vae`, `id_encoder`,
            `scheduler` ..., as objects, or the first three as folder, "org/name" or "org/name@revision/subfolder".
            The identity encoder defaults to the checkpoint's own for face256, else to the shipped one. Also
            `variant="fp16"` and `use_safetensors=True`, as diffusers knows them.

    Raises:
        FileNotFoundError: no such folder or repository, a file that is missing, or offline and not in the cache.
        ValueError: a checkpoint of another family, damaged weights, components or a precision that do not fit.
    """
    return load_checkpoint(model, pipeline, revision, dtype, device, **parts).pipe


def load_checkpoint(
    model: str | PathLike,
    pipeline: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
    **parts: Any,
) -> Loaded:
    """`load_pipeline`, with what the report must say of it.

    Args:
        model, pipeline, revision, dtype, device, parts: as `load_pipeline` takes them.

    Raises:
        FileNotFoundError, ValueError: as `load_pipeline`.
    """
    # The cheap checks first: a checkpoint is gigabytes.
    checkpoint = find_checkpoint(model, revision)
    family = pick_family(checkpoint.index, pipeline, str(model))
    maker, dtype, device = family.load_class(), as_dtype(dtype), as_device(device)
    from ..pipelines.sd_checks import check_components, check_precision

    _quiet_libraries()

    check_precision(dtype, device)
    takes = [name for name in inspect.signature(maker.__init__).parameters if name != "self"]
    parts = {name: value for name, value in parts.items() if value is not None}
    unknown = sorted(parts.keys() - {*takes, *OPTIONS})
    if unknown:
        raise ValueError(f"{family.pipeline} takes {', '.join([*takes, *OPTIONS])}; got {', '.join(unknown)}")
    key = next(name for name, one in FAMILIES.items() if one is family)
    origin = {"pipeline": key, "model": checkpoint.name, "revision": checkpoint.revision, "dtype": str(dtype)[6:]}
    own = [name for name in components(checkpoint.index, takes) if name not in parts]
    if key != "face256" and "id_encoder" not in parts:
        parts["id_encoder"] = _shipped_id_encoder()
    parts, labels, hashes = load_parts(parts, dtype)
    checkpoint = _fetch(checkpoint, key, maker, parts)
    check_weights(checkpoint.folder, checkpoint.index, parts, takes, checkpoint.remedy)
    whole = key == "face256" or not checkpoint.revision
    listed = check_hashes(checkpoint.folder, None if whole else own)
    hashes |= listed or hash_weights(checkpoint.folder, own, parts.get("variant"))
    if "id_encoder" in own and key == "face256":
        # In float32 whatever the unet runs in.
        parts |= load_parts({"id_encoder": checkpoint.folder / "id_encoder"}, dtype)[0]
    parts |= dict.fromkeys(_outdated(maker, checkpoint.index, own))
    try:
        pipe = maker.from_pretrained(checkpoint.folder, dtype=dtype, **parts).to(device)
    except FAILURES as error:
        raise clearer(error, checkpoint.name, checkpoint.revision) from error
    if device.type == "cuda":
        pipe.unet.to(memory_format=torch.channels_last)  # as its convolutions read pictures there
    if key == "face256":
        pipe.check_components()
    else:
        check_components(pipe)
    return Loaded(pipe, checkpoint, origin | labels, hashes)


def load_with_identities(
    model: str | PathLike | None,
    device: str | torch.device = "cpu",
    id_encoder: str | PathLike | None = None,
    **given: Any,
) -> tuple[Loaded, Path]:
    """A pipeline with its identity encoder, and the folder of the identities and thresholds that belong to it.

    Args:
        model: as in `load_pipeline`; None for the shipped one.
        device: where it is to run.
        id_encoder: folder of encoder, identities and thresholds; by default the model's own for face256, else the
            shipped one.
        given: as in `load_pipeline`.

    Raises:
        FileNotFoundError, ValueError: as `load_pipeline`; also a folder without one of the three.
    """
    if model is None and given.get("revision"):
        raise ValueError(f"revision pins a Hub checkpoint, got {brief(given['revision'])} and no model; name one")
    if not isinstance(id_encoder, str | PathLike | None):
        raise ValueError(
            "id_encoder must be the folder of an identity encoder with its identities and thresholds, got "
            f"{type(id_encoder).__name__}; the three belong together"
        )
    model = weights_dir("face256") if model is None else model
    own = find_checkpoint(model, given.get("revision")).index.get("_class_name") == FAMILIES["face256"].pipeline
    if id_encoder is None and own:
        loaded = load_checkpoint(model, device=device, **given)
        check_identities(loaded.checkpoint.folder, loaded.checkpoint.remedy)
        return loaded, loaded.checkpoint.folder
    folder = weights_dir("face256") if id_encoder is None else Path(id_encoder)
    check_identities(folder, "give a folder that `deid train pack` wrote")
    listed = check_hashes(folder, ("id_encoder", IDENTITIES, THRESHOLDS))
    hashes = {f"id_encoder/{name}": listed[name] for name in (IDENTITIES, THRESHOLDS) if name in listed}
    loaded = load_checkpoint(model, device=device, **given, id_encoder=folder / "id_encoder")
    return replace(loaded, hashes=loaded.hashes | hashes), folder


def check_identities(folder: Path, remedy: str) -> None:
    """Looks for the identity encoder, the identities in its space and its thresholds.

    Args:
        folder: where they are to be.
        remedy: what to do about one that is missing.

    Raises:
        FileNotFoundError: one is missing.
    """
    for name in (IDENTITIES, THRESHOLDS, "id_encoder"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} must hold {name}, it does not; {remedy}")


def check_id_encoder(pipe: Any, dim: int) -> None:
    """Checks that the pipeline has an identity encoder, and a unet, that fit the bank.

    Args:
        pipe: the pipeline.
        dim: length of the bank's embeddings.

    Raises:
        ValueError: they do not, or there is no identity encoder.
    """
    got = None if pipe.id_encoder is None else pipe.id_encoder.config.num_labels
    if got != dim:
        raise ValueError(
            f"the pipeline needs an id_encoder of {dim} outputs, as long as the bank's identities, got "
            f"{'none' if got is None else got}; take both from one folder"
        )
    reads = getattr(pipe, "identity_dim", dim)
    if reads != dim:
        raise ValueError(
            f"the unet must read identities of {dim} numbers, got room for {reads}; it was trained with another "
            "identity encoder or other attributes: take the weights and the code of one version"
        )


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A precision, or its name -> the precision.

    Raises:
        ValueError: one that no pipeline runs in.
    """
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        got = brief(str(dtype) if isinstance(dtype, (str, torch.dtype)) else dtype).strip("'")
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {got}")
    return found


def check_speed(dtype: torch.dtype | str, device: str | torch.device) -> None:
    """Refuses what runs, and takes all night: float16 on a CPU, for which it has no fast kernels.

    Args:
        dtype: a precision, or its name.
        device: where it is to run.

    Raises:
        ValueError: float16 on a CPU; no such precision or device.
    """
    if as_dtype(dtype) is torch.float16 and as_device(device).type == "cpu":
        raise ValueError(
            "dtype float16 is for GPUs, got it with device cpu, where it takes many times as long as float32; take "
            "float32 or bfloat16, or another device"
        )


def pick_device(device: str) -> str:
    """The device itself; of "auto", a CUDA GPU where there is one, else the CPU.

    Args:
        device: a torch device, or "auto".
    """
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def as_device(device: str | torch.device) -> torch.device:
    """A device, or its name -> torch.device, before gigabytes are read for it.

    Raises:
        ValueError: it is not there, or is no device.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda, cuda:1, mps ..., got {brief(device)}") from None
    count = {"cuda": torch.cuda.device_count, "mps": lambda: int(torch.backends.mps.is_available())}.get(found.type)
    if count is not None and (found.index or 0) >= count():
        raise ValueError(
            f"device {found} is not there: torch {torch.__version__} sees {count()} of that kind; take device='cpu', "
            "or install a torch for it (pytorch.org)"
        )
    return found


def _quiet_libraries() -> None:
    """No progress bars of libraries, where the environment asks for that as `deid` does."""
    if os.environ.get("TRANSFORMERS_VERBOSITY") == "error":
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def _outdated(maker: Any, index: dict[str, Any], names: list[str]) -> list[str]:
    """Components that can be done without and whose classes the libraries have given up (CLIPFeatureExtractor)."""
    gone = [name for name in names if not hasattr(import_module(index[name][0]), index[name][1])]
    for name in gone:
        library, kind = index[name]
        if name not in maker._optional_components:
            raise ValueError(
                f"{name} is of class {kind}, which this {library} does not have; load one and pass {name}=..."
            )
        log.info("%s is left out: %s has no %s any more", name, library, kind)
    return gone


def _fetch(checkpoint: Checkpoint, key: str, maker: Any, given: dict[str, Any]) -> Checkpoint:
    """Downloads what a Hub checkpoint needs and the cache lacks; a folder is left as it is."""
    if not checkpoint.revision:
        return checkpoint
    from huggingface_hub import snapshot_download

    try:
        if key == "face256":  # small, and its identities and hashes are no components
            folder = snapshot_download(checkpoint.name, revision=checkpoint.revision)
        else:
            folder = maker.download(checkpoint.name, revision=checkpoint.revision, **given)
    except FAILURES as error:
        raise clearer(error, checkpoint.name, checkpoint.revision) from error
    return replace(checkpoint, folder=Path(folder))


def _shipped_id_encoder() -> Path | None:
    try:
        return weights_dir("face256") / "id_encoder"
    except FileNotFoundError:
        log.info("no shipped identity encoder: repulsion needs id_encoder=...")
        return None
