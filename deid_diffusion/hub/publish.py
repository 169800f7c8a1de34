"""Publishes crop-level pipelines on the Hub; `load_pipeline`, which loads them, can be had from here too."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..messages import brief
from ..models.checkpoint import check_weights, read_index
from ..models.registry import pick_family
from .folder import Card, build_folder, check_in_fresh_process

log = logging.getLogger(__name__)


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
    check_repo_id(repo_id)
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
    return upload(built, repo_id, f"Publish {family.pipeline}", private, token)


def check_repo_id(repo_id: str) -> None:
    """Refuses what is no name of a repository.

    Args:
        repo_id: "org/name".

    Raises:
        ValueError: it is none.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise ValueError(f"repo_id must be a Hub name like org/name, got {brief(repo_id)}") from None


def upload(built: Path, repo_id: str, message: str, private: bool, token: str | None = None, **kind: str) -> str:
    """Creates a repository where there is none, and uploads a folder to it.

    Args:
        built: the folder.
        repo_id: "org/name".
        message: of the commit.
        private: create the repository as a private one.
        token: of the Hub; by default the one of `hf auth login`.
        kind: `repo_type` and `space_sdk`, where it is no model.

    Returns:
        The commit's address.

    Raises:
        ValueError: the Hub does not let one write there.
    """
    api = HfApi(token=token)
    same = {name: value for name, value in kind.items() if name == "repo_type"}
    try:
        api.create_repo(repo_id, private=private, exist_ok=True, **kind)
        commit = api.upload_folder(repo_id=repo_id, folder_path=built, commit_message=message, **same)
    except (RepositoryNotFoundError, LocalTokenNotFoundError) as error:
        raise ValueError(
            f"the Hub does not let you write to {repo_id}; run `hf auth login`, or check the name"
        ) from error
    log.info("published %s", commit.commit_url)
    return commit.commit_url
