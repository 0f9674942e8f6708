"""What an export may start from: a folder in diffusers layout, the same with ``.bin`` weights, or a single file.

The last two become the first in a folder beside the target, there as long as the export runs: JSON and headers at
once, so that everything can be checked, and the tensors' bytes when ``fill`` is called.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffrt.errors import InvalidArgument, nearest
from diffrt.folders import Say, building

from ..checkpoint import open_checkpoint
from ..safetensors_writer import Stored, write_tensors
from ..spec import Family
from .pickled_folder import pickled_weights, with_safetensors
from .single_file import PREDICTION_TYPES, unpack


@dataclass(frozen=True)
class Source:
    root: Path  # a folder in diffusers layout with safetensors weights
    converted: Mapping[Path, Mapping[str, Stored]] = field(default_factory=dict)  # files in it whose bytes are to come
    family: Family | None = None  # the caller's own; None: the registry knows it

    def fill(self, say: Say) -> None:
        for file, tensors in self.converted.items():
            say(f"converting the weights of {file.parent.name}")
            write_tensors(file, tensors)


@contextlib.contextmanager
def opened(
    source: Path,
    target: Path,
    precision: str,
    prediction_type: str | None,
    copy_weights: bool,
    say: Say,
    family: Family | None = None,
) -> Iterator[Source]:
    """Prepare a source for its export to ``target``. Raises CheckpointError or InvalidArgument."""
    if prediction_type not in (None, *PREDICTION_TYPES):
        known = nearest(str(prediction_type), PREDICTION_TYPES)
        raise InvalidArgument(f"prediction_type {prediction_type!r} is unknown; {known}")
    if source.is_file():
        if family is not None:
            raise InvalidArgument(f"{source} is a file, and a family is declared: give a folder in diffusers layout")
        with building(target, "source-") as folder:
            yield Source(folder, unpack(source, folder, prediction_type, say))
        return
    checkpoint = open_checkpoint(source, family)
    parts, pickles = tuple(checkpoint.configs), {}
    for part in parts:
        if file := pickled_weights(source / part, precision):
            pickles[part] = file
    if prediction_type is not None:
        raise InvalidArgument("prediction_type is for single files: a folder has it in scheduler/scheduler_config.json")
    if not pickles:
        yield Source(source, family=family)
        return
    with building(target, "source-") as folder:
        converted = with_safetensors(source, folder, parts, pickles, copy_weights, say)
        for name in checkpoint.settings:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        yield Source(folder, converted, family)
