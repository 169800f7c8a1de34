"""Runs `deid publish`: builds a Hub folder from weights, tries it as a stranger would, and uploads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import complain
from .options import Parser


def main(argv: list[str]) -> int:
    """Returns 0, or 2 when folder, name or token do not fit; nothing is uploaded then."""
    options = _parser().parse_args(argv)
    from deid_diffusion.hub.folder import Card
    from deid_diffusion.hub.publish import publish

    card = Card(options.license, base_model=tuple(options.base_model), datasets=tuple(options.dataset))
    out = options.out or Path("out", "space" if options.space else "hub", options.name.rpartition("/")[2])
    try:
        if options.space:
            from deid_diffusion.hub.space import publish_space

            print(publish_space(options.folder, options.name, out, options.dry_run, options.private))
            return 0
        print(publish(options.folder, options.name, out, card, options.dry_run, options.private))
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        return complain(str(error), 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("deid publish", description=__doc__.partition(": ")[2], allow_abbrev=False)
    add = parser.add_argument
    add("folder", type=Path, help="pipeline folder, such as weights/face256")
    add("name", help="ORG/NAME on the Hub")
    add("-o", "--out", type=Path, help="where to build the Hub folder (out/hub/NAME); must be empty or not there")
    add("--space", action="store_true", help="publish a Space instead: the page of deid web, with these weights")
    add("--dry-run", action="store_true", help="build and try it, upload nothing")
    add("--private", action="store_true", help="create the repository as a private one")
    add("--license", default="apache-2.0", help="Hub licence identifier of the weights (apache-2.0)")
    add("--base-model", action="append", default=[], metavar="NAME", help="what it was made from; may be repeated")
    add("--dataset", action="append", default=[], metavar="NAME", help="what it was trained on; may be repeated")
    return parser
