"""The files of a bundle as its manifest lists them: sizes and hashes."""

import hashlib
from pathlib import Path

from diffrt.manifest import MANIFEST, FileEntry
from diffrt.safetensors_header import header_length


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """An entry for every file but the manifest and README.md, a page that may be edited, by its path in the folder."""
    apart = (folder / MANIFEST, folder / "README.md")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f not in apart)
    return {file.relative_to(folder).as_posix(): file_entry(file) for file in files}


def file_entry(file: Path) -> FileEntry:
    """Size and sha256; of safetensors the header's sha256 too, which loading can afford to check."""
    header = None
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            header = hashlib.sha256(stream.read(header_length(file))).hexdigest()
    with file.open("rb") as stream:
        return FileEntry(file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest(), header)
