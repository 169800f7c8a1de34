"""Says where a file may be written: at a new name, or over an ordinary file; into no device and through no link."""

from __future__ import annotations

import errno
import os
import stat
from os import PathLike

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
NAME_MAX = 255  # bytes of a file name, on nearly every file system


def unfit_place(path: str | PathLike[str]) -> str:
    """What is wrong with a path as the place of a file, as in "got a link"; empty for a place that will do."""
    too_long = f"a name of {len(os.fsencode(os.path.basename(path)))} bytes, which is too long"
    try:
        return _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "")
    except ValueError:
        return "a name with a NUL in it"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG or len(os.fsencode(os.path.basename(path))) > NAME_MAX:
            return too_long
        return ""  # nothing is there, or nobody may look: writing will tell
