"""Loads crop-level pipelines from folders and the Hub, and publishes them there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .hub_folder import Card, build_folder, check_in_fresh_process, check_weights
from .paths import weights_dir

log = logging.getLogger(__name__)
INDEX = "model_index.json"


@dataclass(frozen=True)
class Family:
    """One crop-level pipeline and the checkpoints that it can take over.

    Attributes:
        file: its file in `pipelines/`, without the ending.
        pipeline: its class.
        takes: `_class_name` of the checkpoints it loads beside its own.
    """

    file: str
    pipeline: str
    takes: tuple[str, ...] = ()

    def load_class(self) -> type:
        """The pipeline's class, from this package."""
        return getattr(import_module(f"deid_diffusion.pipelines.{self.file}"), self.pipeline)


def _takes(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{task}Pipeline" for task in ("", "Inpaint", "ControlNet", "ControlNetInpaint", "Img2Img"))


_SD, _XL = "StableDiffusion", "StableDiffusionXL"
FAMILIES = {
    "face256": Family("face_inpaint", "FaceInpaintPipeline"),
    "sd": Family("sd_face_inpaint", f"{_SD}FaceInpaintPipeline", _takes(_SD)),
    "sdxl": Family("sdxl_face_inpaint", f"{_XL}FaceInpaintPipeline", _takes(_XL)),
}


def load_pipeline(
    model: str | PathLike,
    pipeline: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    **parts: Any,
) -> Any:
    """Loads the crop-level pipeline that fits a checkpoint. Nothing is fetched but the repositories named.

    Args:
        model: folder of a diffusers checkpoint, or its name on the Hub ("org/name").
        pipeline: "face256", "sd" or "sdxl"; by default told from the checkpoint.
        revision: commit of a Hub checkpoint; pin it, a branch can change or vanish.
        dtype: precision of the weights; the guide stays in float32.
        parts: components that replace or complete the checkpoint's: `controlnet`, `preview_vae`, `id_encoder`,
            `scheduler` ..., as objects, or the first three as folder, "org/name" or "org/name/subfolder". The guide
            defaults to the shipped one.

    Raises:
        FileNotFoundError: no such folder or repository, a file that is missing, or offline and not in the cache.
        ValueError: a checkpoint of another family, damaged weights, components or a precision that do not fit.
    """
    index = read_index(model, revision)
    family = pick_family(index, pipeline, str(model))
    folder = Path(model) if Path(model).is_dir() else None
    if folder is not None:
        check_weights(folder, index, given=parts)
    from .pipelines.sd_checks import check_components, check_precision

    check_precision(dtype, torch.device("cpu"))
    parts = _load_parts(parts, dtype, guide=family.file != "face_inpaint")
    try:
        pipe = family.load_class().from_pretrained(model, revision=revision, dtype=dtype, **parts)
    except (OSError, ValueError, RuntimeError) as error:
        raise _clearer(error, model, revision) from error
    if family.file != "face_inpaint":
        check_components(pipe)
    return pipe


def read_index(model: str | PathLike, revision: str | None = None) -> dict[str, Any]:
    """`model_index.json` of a folder or of a Hub repository (the only file that is fetched).

    Raises:
        FileNotFoundError: says which file is missing, where, and how to get it.
        ValueError: not a diffusers checkpoint, or not a name.
    """
    path, name = Path(model), str(model)
    if path.is_file():
        raise ValueError(
            f"need a diffusers folder or a Hub name, got the file {name}; convert it, see pipelines/README.md"
        )
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise FileNotFoundError(
                f"{name} must hold {INDEX}, it does not; give the folder that save_pretrained() wrote"
            )
        return json.loads((path / INDEX).read_text())
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise FileNotFoundError(f"no folder {name}, and it is no Hub name (org/name); check the path") from None
    try:
        return json.loads(Path(hf_hub_download(name, INDEX, revision=revision)).read_text())
    except (OSError, ValueError) as error:
        raise _clearer(error, name, revision) from error


def pick_family(index: dict[str, Any], pipeline: str | None = None, model: str = "the checkpoint") -> Family:
    """The pipeline for a checkpoint: the one asked for if it can take it, or the one that its index names.

    Raises:
        ValueError: nobody takes it, or the one asked for does not.
    """
    if pipeline is not None and pipeline not in FAMILIES:
        raise ValueError(f"pipeline must be one of {', '.join(FAMILIES)}, got {pipeline!r}")
    name = index.get("_class_name")
    if isinstance(name, list):
        raise ValueError(
            f"{model} brings its own code ({name[0]}.py), which is not run unasked; read it, then load it yourself by "
            f"DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    fits = [key for key, family in FAMILIES.items() if name == family.pipeline or name in family.takes]
    if not fits or (pipeline is not None and pipeline not in fits):
        wanted = FAMILIES[pipeline] if pipeline else None
        known = [wanted.pipeline, *wanted.takes] if wanted else [family.pipeline for family in FAMILIES.values()]
        other = f"take pipeline={fits[0]!r}" if fits else "take a checkpoint of Stable Diffusion 1, SDXL or face256"
        raise ValueError(f"{model} must be a checkpoint of {' or '.join(known)}, got {name}; {other}")
    return FAMILIES[fits[0]]


def publish(folder: str | PathLike, repo_id: str, out: str | PathLike, card: Card | None = None,
            dry_run: bool = False, private: bool = False, token: str | None = None) -> str | Path:  # fmt: skip
    """Builds the self-contained Hub folder of a checkpoint, tries it in a fresh process, and uploads it.

    Args:
        folder: what `save_pretrained` of one of our pipelines wrote, e.g. weights/face256.
        repo_id: "org/name" on the Hub.
        out: where the Hub folder is built; must not exist or be empty.
        card: metadata of the model card.
        dry_run: build and try only.
        private: create the repository as a private one.
        token: of the Hub; by default the one of `hf auth login`.

    Returns:
        The commit's address, or for a dry run the built folder.

    Raises:
        FileNotFoundError, ValueError: folder, name or token do not fit. Nothing is uploaded then.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id must be a Hub name like org/name, got {repo_id!r}: {error}") from None
    index = read_index(Path(folder))
    family = pick_family(index, model=str(folder))
    if index["_class_name"] != family.pipeline:
        raise ValueError(
            f"publish takes {family.pipeline} folders, got {index['_class_name']}; load it and save it first"
        )
    check_weights(Path(folder), index)
    built = build_folder(Path(folder), Path(out), repo_id, family.file, card or Card())
    check_in_fresh_process(built, family.file)
    if dry_run:
        return built
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=built, commit_message=f"Publish {family.pipeline}")
    except (RepositoryNotFoundError, LocalTokenNotFoundError) as error:
        raise ValueError(
            f"the Hub does not let you write to {repo_id}; run `hf auth login`, or check the name"
        ) from error
    log.info("published %s", commit.commit_url)
    return commit.commit_url


def _load_parts(parts: dict[str, Any], dtype: torch.dtype, guide: bool) -> dict[str, Any]:
    from diffusers import AutoencoderTiny, ControlNetModel
    from transformers import ResNetForImageClassification

    parts = {name: value for name, value in parts.items() if value is not None}
    if guide and "id_encoder" not in parts:
        try:
            parts["id_encoder"] = weights_dir("face256") / "id_encoder"
        except FileNotFoundError:
            log.info("no shipped guide: repulsion needs id_encoder=...")
    loaders = {
        "controlnet": (ControlNetModel, dtype),
        "preview_vae": (AutoencoderTiny, dtype),
        "id_encoder": (ResNetForImageClassification, torch.float32),
    }
    for name, (maker, precision) in loaders.items():
        if isinstance(parts.get(name), str | PathLike):
            source, below = str(parts[name]), {}
            if not Path(source).exists() and source.count("/") > 1:
                org, repo, below["subfolder"] = source.split("/", 2)
                source = f"{org}/{repo}"
            try:
                parts[name] = maker.from_pretrained(source, dtype=precision, **below)
            except (OSError, ValueError) as error:
                raise _clearer(error, source, None, what=name) from error
    return parts


def _clearer(error: Exception, model: Any, revision: str | None, what: str = "model") -> Exception:
    """The same failure in words that say what to do; chained causes are looked at too."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    pin = f" --revision {revision}" if revision else ""
    for cause in chain:
        if isinstance(cause, GatedRepoError):
            return FileNotFoundError(f"{model} is gated; accept its terms on its Hub page, then run `hf auth login`")
        if isinstance(cause, RepositoryNotFoundError):
            return FileNotFoundError(
                f"no repository {model} on the Hub, or it is private; check it, or run `hf auth login`"
            )
        if isinstance(cause, RevisionNotFoundError):
            return FileNotFoundError(f"{model} has no revision {revision}; take a commit from its Hub page")
        if isinstance(cause, LocalEntryNotFoundError):
            return FileNotFoundError(
                f"{what} {model}: a file of it is not in the local cache, and the Hub is out of reach or "
                f"HF_HUB_OFFLINE is set; run `hf download {model}{pin}` where there is a network ({cause})"
            )
        if isinstance(cause, EntryNotFoundError):
            return FileNotFoundError(f"{model} must hold {INDEX}, it does not; give a diffusers checkpoint ({cause})")
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{what} {model} could not be read: {error}")
    return error
