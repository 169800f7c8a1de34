"""The command line: picks the command, quiets the libraries, and turns every error into one line.

Nothing heavy is imported here: `deid --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

_COMMANDS = {
    "run": "give every face of pictures, clips and folders to somebody who does not exist",
    "detect": "write where faces are in pictures and clips",
    "train": "train a part of the model from aligned face crops",
    "eval": "judge folders of outputs: privacy, utility, quality",
    "compare": "run every method on one folder and judge them side by side",
    "key": "make a key for pseudonyms, list and forget the people that it knows",
    "web": "open a page in the browser: see every face, decide, download",
    "publish": "put a pipeline's weights and code on the Hub",
}
_USAGE = """\
usage: deid [--version] [--debug] COMMAND ...

Diffusion-based face anonymization: every face leaves as somebody else, or hidden. Never as itself.

commands:
{commands}

`deid COMMAND --help` tells more. --debug shows tracebacks and what the libraries have to say.
Exit codes: 0 all done, 1 something failed, 2 a wrong command line, 3 all done but faces are only cloaked and so not
anonymized, 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""


class Ended(KeyboardInterrupt):
    """A signal asks to end: as Ctrl-C does, with another exit code."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


def main(argv: list[str] | None = None) -> int:
    """Runs `deid` with the given arguments, sys.argv's by default, and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        from deid_diffusion import __version__

        print(f"deid {__version__}")
        return 0
    if argv[0] not in _COMMANDS:
        return complain(f"unknown command {argv[0]!r}; there are {', '.join(_COMMANDS)}", 2)
    quieten(debug)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        with signals_end():
            return import_module(f"deid_diffusion.cli.{argv[0]}").main(argv[1:]) or 0
    except KeyboardInterrupt as interrupt:
        return complain("interrupted", exit_code(interrupt))
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain again while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        return complain(f"{error or type(error).__name__} (--debug shows where)", 1)


@contextmanager
def signals_end() -> Iterator[None]:
    """While it lasts, SIGTERM and SIGHUP raise `Ended`, unless they are ignored (nohup) or have a handler already."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for name in names if signal.getsignal(number := getattr(signal, name)) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []  # only there Python takes handlers

    terminals = [stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if stream and stream.isatty()]

    def end(number: int, _frame: Any) -> NoReturn:
        if number != signal.SIGTERM:
            for stream in terminals:  # it has gone, and whatever is written to it would end the run half-way
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        for other in taken:
            signal.signal(other, signal.SIG_IGN)  # they often come twice, and the report is still to be written
        raise Ended(number)

    try:
        for number in taken:
            signal.signal(number, end)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 128 and the number of any other signal: 143 for SIGTERM."""
    return getattr(interrupt, "code", 128 + signal.SIGINT)


def usage() -> str:
    """The text of `deid --help`."""
    return _USAGE.format(commands="\n".join(f"  {name:<9}{text}" for name, text in _COMMANDS.items()))


def complain(message: str, code: int) -> int:
    """Writes one line to stderr and returns the exit code."""
    print(f"deid: {one_line(message)}", file=sys.stderr, flush=True)
    return code


def one_line(text: str) -> str:
    """Without line breaks, and with what else a file's name may do to a terminal spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def quieten(debug: bool) -> None:
    """Sets up the environment before torch and the Hugging Face libraries read it."""
    # Threads that spin while they wait bring a busy machine to a halt.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NumPy's products are small here, and its threads spin, too.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        return
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error"}
    for name, value in (quiet | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}).items():
        os.environ.setdefault(name, value)
    import warnings

    warnings.simplefilter("ignore")
