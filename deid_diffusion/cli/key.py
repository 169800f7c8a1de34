"""Runs `deid key`: makes keys for pseudonyms, and lists, merges and forgets the people that they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import complain
from .options import Parser, natural

_TEXT = """\
A key gives every person the same stranger in all pictures and clips that are run with it:

  deid key new my.key
  deid run holiday/ -o out/ --key my.key

The people that it knows lie beside it, in my.key.people, sealed. Keep both to yourself, together, with a backup: who
has them can tell who became whom; who has lost them cannot go on with the same strangers. Reports name people by
number.
"""


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 done, 2 a wrong command line, or a key or people that cannot be used."""
    import argparse

    parser = Parser("deid key", description=_TEXT, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a key; a file that exists is never written over")
    new.add_argument("key", type=Path, metavar="FILE")
    people = commands.add_parser("people", help="list, merge or forget the people that a key knows")
    verbs = people.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="number, stranger, and how often they were merged")
    merging = verbs.add_parser("merge", help="make one of people who are the same; the first one's stranger stays")
    forgetting = verbs.add_parser("forget", help="forget people; when they come again they are somebody new")
    for verb in (listing, merging, forgetting):
        verb.add_argument("key", type=Path, metavar="FILE")
    merging.add_argument("into", type=natural, metavar="NUMBER")
    merging.add_argument("others", type=natural, nargs="+", metavar="NUMBER")
    forgetting.add_argument("numbers", type=natural, nargs="+", metavar="NUMBER")
    options = parser.parse_args(argv)

    from deid_diffusion.methods.key_file import PseudonymError

    try:
        return _do(options)
    except PseudonymError as error:
        return complain(str(error), 2)


def _do(options: Any) -> int:
    from deid_diffusion.methods.pseudonyms import Pseudonyms

    if options.command == "new":
        pseudonyms = Pseudonyms.new(options.key)
        print(f"{pseudonyms.key.path}: a new key; its people will be in {pseudonyms.file.path.name}. Back both up")
        return 0
    pseudonyms = Pseudonyms(options.key)
    if options.verb == "merge":
        pseudonyms.merge(options.into, options.others)
    elif options.verb == "forget":
        pseudonyms.forget(options.numbers)
    else:
        for one in pseudonyms.people:
            print(f"person {one.number}: stranger {one.target}, {len(one.embeddings)} faces known")
    print(f"{pseudonyms.key.path}: {len(pseudonyms.people)} people")
    return 0
