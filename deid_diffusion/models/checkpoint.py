"""Finds a checkpoint's files, in a folder or on the Hub, and says which one it is and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..messages import not_a_path
from ..weight_files import sha256_of

INDEX = "model_index.json"
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack"}
_PLAIN_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")


@dataclass(frozen=True)
class Checkpoint:
    """Which checkpoint, and where its index lies on this machine.

    Attributes:
        name: "org/name" on the Hub, or the folder's own name, without the path to it.
        revision: the commit that a Hub name was resolved to; empty for a folder.
        folder: on this machine; for a Hub name the snapshot in the cache, whole only after a download.
        index: its model_index.json.
    """

    name: str
    revision: str
    folder: Path
    index: dict[str, Any]

    @property
    def remedy(self) -> str:
        """What to do about a file that is missing or damaged."""
        if not self.revision:
            return "copy it there"
        return f"run `hf download {self.name} --revision {self.revision}` where there is a network"


def find_checkpoint(model: str | PathLike, revision: str | None = None) -> Checkpoint:
    """Looks a checkpoint up. Of a Hub repository, `model_index.json` is the only file that is fetched.

    Args:
        model: a folder, or "org/name".
        revision: commit, tag or branch of a Hub repository.

    Raises:
        FileNotFoundError: says which file is missing, where, and how to get it.
        ValueError: not a diffusers checkpoint, or not a name, or a revision of a folder.
    """
    if wrong := not_a_path(model):
        raise ValueError(f"need a diffusers folder or a Hub name, got {wrong}")
    path, name = Path(model), str(model)
    if path.is_file():
        raise ValueError(
            f"need a diffusers folder or a Hub name, got the file {name}; convert it, see pipelines/README.md"
        )
    if path.is_dir():
        if revision:
            raise ValueError(f"revision pins a Hub checkpoint, got the folder {name}; leave it out, or give org/name")
        if not (path / INDEX).is_file():
            raise FileNotFoundError(
                f"{name} must hold {INDEX}, it does not; give the folder that save_pretrained() wrote"
            )
        return Checkpoint(path.resolve().name, "", path, _read_json(path / INDEX))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise FileNotFoundError(f"no folder {name}, and it is no Hub name (org/name); check the path") from None
    try:
        place = Path(hf_hub_download(name, INDEX, revision=revision))
    except (OSError, ValueError) as error:
        raise clearer(error, name, revision) from error
    return Checkpoint(name, place.parent.name, place.parent, _read_json(place))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, it is not ({error}); fetch it again") from None


def read_index(model: str | PathLike, revision: str | None = None) -> dict[str, Any]:
    """`model_index.json` of a folder or of a Hub repository; errors as in `find_checkpoint`.

    Args:
        model: a folder, or "org/name".
        revision: commit on the Hub.
    """
    return find_checkpoint(model, revision).index


def check_weights(
    folder: Path,
    index: dict[str, Any],
    given: Container[str] = (),
    wanted: Container[str] | None = None,
    remedy: str = "copy it there",
) -> None:
    """Looks for what the index promises, and into each safetensors file as far as its header.

    Args:
        folder: of a diffusers checkpoint.
        index: its model_index.json.
        given: components that come from elsewhere.
        wanted: names of the components that will be loaded; None for all.
        remedy: what to do about a file that is missing.

    Raises:
        FileNotFoundError: a component's folder or weights are not there.
        ValueError: a file is shorter or longer than its header says, or a component brings its own code.
    """
    for name in components(index, wanted):
        if name in given:
            continue
        library, class_name = index[name]
        if library not in ("diffusers", "transformers"):
            raise ValueError(
                f"{folder.name} brings its own code for {name} ({library}), which is not run unasked; read it, load "
                f"that {class_name} yourself, and pass {name}=..."
            )
        place = folder / name
        if not place.is_dir() or not any(place.iterdir()):
            raise FileNotFoundError(
                f"{folder} must hold {name}/ ({class_name}), it does not; {remedy}, or pass {name}=..."
            )
        check_part(place, remedy)


def components(index: dict[str, Any], wanted: Container[str] | None = None) -> list[str]:
    """Names of the components that a checkpoint's index promises, as far as they are wanted.

    Args:
        index: of the checkpoint.
        wanted: names that count; None for all.
    """
    listed = [n for n, entry in index.items() if not n.startswith("_") and isinstance(entry, list) and entry[0]]
    return [name for name in listed if wanted is None or name in wanted]


def check_part(place: Path, remedy: str = "copy it there") -> None:
    """One component's folder: its weights are there, and each safetensors file is as long as its header says.

    Args:
        place: the component's folder.
        remedy: what the message tells the user to do.

    Raises:
        FileNotFoundError, ValueError: as `check_weights`.
    """
    # Tokenizers, schedulers and image processors have configurations of other names, and no weights.
    if (place / "config.json").is_file() and not weight_files(place):
        raise FileNotFoundError(f"{place} must hold weights (*.safetensors), it does not; {remedy}")
    for path in sorted(place.rglob("*.safetensors")):
        size, right = path.stat().st_size, safetensors_size(path)
        if size != right:
            raise ValueError(
                f"{path} must have {right} bytes by its own header, got {size}; it is damaged, fetch it again"
            )
    for listing in place.glob("*.safetensors.index.json"):
        shards = set(_read_json(listing).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (place / shard).is_file())
        # A repository lists the shards of every precision, a download has those of one.
        if missing and len(missing) < len(shards):
            raise FileNotFoundError(f"{place} must hold {missing[0]}, it does not; {remedy}")


def safetensors_size(path: Path) -> int:
    """How many bytes the header says the file has; 8 or less for a file without a whole header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = file.read(min(length, 100_000_000))
    try:
        tensors = json.loads(head)
        return 8 + length + max((t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 8


def weight_files(place: Path) -> list[Path]:
    """The weight files right in a component's folder."""
    return sorted(path for path in place.iterdir() if path.suffix in WEIGHTS)


def hash_weights(folder: Path, names: Iterable[str], variant: str | None = None) -> dict[str, str]:
    """sha256 by "component/file" of the weights that diffusers reads from a checkpoint's folder.

    Args:
        folder: of the checkpoint.
        names: of its components.
        variant: "fp16" and the like; files of other precisions beside it are not read and not hashed.
    """
    hashes: dict[str, str] = {}
    for name in names:
        files = weight_files(folder / name) if (folder / name).is_dir() else []
        safe = [path for path in files if path.suffix == ".safetensors"] or files
        # "diffusion_pytorch_model.fp16-00001-of-00002.safetensors": stem, variant, number of the shard.
        stems = {path: path.stem.partition("-0")[0] for path in safe}
        wanted = tuple(f"{stem}.{variant}" for stem in _PLAIN_STEMS) if variant else _PLAIN_STEMS
        read = (
            [path for path in safe if stems[path] in wanted] or [p for p in safe if stems[p] in _PLAIN_STEMS] or safe
        )
        hashes |= {f"{name}/{path.name}": sha256_of(path) for path in read}
    return hashes


def clearer(error: Exception, model: Any, revision: str | None, what: str = "model", needs: str = INDEX) -> Exception:
    """The same failure in words that say what to do; chained causes are looked at too.

    Args:
        error: what a Hugging Face library raised.
        model: what was asked for.
        revision: of it.
        what: the role it was to play.
        needs: the file without which it is none.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

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
                f"{what} {model}: {needs} is not in the local cache, and the Hub is out of reach or "
                f"HF_HUB_OFFLINE is set; run `hf download {model}{pin}` where there is a network ({cause})"
            )
        if isinstance(cause, EntryNotFoundError):
            return FileNotFoundError(f"{model} must hold {needs}, it does not; give a diffusers checkpoint ({cause})")
        if isinstance(cause, SafetensorError):
            return ValueError(f"{what} {model}: a weight file is damaged ({cause}); fetch it again")
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{what} {model} could not be read: {error}")
    return error
