"""A folder that is written whole or not at all, and links to files that stay where they are."""

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from diffrt.errors import ExportError, InvalidArgument

Say = Callable[[str], None]  # takes one line as each stage begins


def check_free(target: Path, record: str, force: bool, what: str = "such an export") -> None:
    """InvalidArgument where no folder can be written, or where something lies that is not to be replaced: only a folder
    that has the file `record` is, and only by force. `what` it is called."""
    if not target.parent.is_dir():
        raise InvalidArgument(f"the folder {target.parent} does not exist; create it first")
    if os.path.lexists(target):
        if not force:
            raise InvalidArgument(f"{target} exists; choose another folder, or replace {what} with --force")
        if not (target / record).is_file():
            raise InvalidArgument(
                f"{target} exists; choose another folder: it is not {what} (it has no {record}), and --force replaces "
                "nothing else"
            )


@contextlib.contextmanager
def building(target: Path, mark: str = "") -> Iterator[Path]:
    """A folder to build in, beside the target; removed at the end. What dead exports left is removed first."""
    folder = target.with_name(f"{target.name}.partial-{mark}{os.getpid()}")
    for stale in target.parent.glob(f"{glob.escape(target.name)}.partial-*"):
        if stale == folder or not alive(stale.name.rpartition("-")[2]):
            remove(stale)
    try:
        folder.mkdir()
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(f"no space left at {target.parent}; nothing was written to {target.name}") from error
        raise ExportError(f"{target.name} could not be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def alive(pid: str) -> bool:
    """Whether a process of that number runs here."""
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def publish(folder: Path, target: Path) -> None:
    """Rename the finished folder to its place; a bundle already there is moved aside first and then removed."""
    aside = folder.with_name(f"{target.name}.partial-old-{os.getpid()}")
    replaced = os.path.lexists(target)
    if replaced:
        remove(aside)
        target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        if replaced:
            aside.rename(target)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Delete a folder, or a link to one but not what it points at."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def link(source: Path, target: Path, copy: bool, say: Say) -> None:
    if not copy:
        try:
            os.link(source, target)
            return
        except OSError:
            say(f"copying {source.name}: it is on another file system, or links are not allowed there")
    shutil.copyfile(source, target)
