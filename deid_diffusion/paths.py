"""Knows where the shipped weights lie, in a checkout and in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def weights_dir(name: str) -> Path:
    """Folder of the shipped weights called `name` ("face256", "reader").

    Raises:
        FileNotFoundError: when neither the wheel nor a checkout holds it.
    """
    places = [_PACKAGE / "weights" / name, _PACKAGE.parent / "weights" / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no shipped weights {name!r}: looked in {' and '.join(str(p) for p in places)}. "
        "Reinstall deid-diffusion, or give a folder or a Hub name to from_pretrained()."
    )
