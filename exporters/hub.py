"""Checkpoints on the Hugging Face Hub: which of a repository's files an export reads. No others are fetched."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffrt import hub
from diffrt.errors import CheckpointError, HubError, InvalidArgument
from diffrt.folders import Say
from diffrt.weight_files import STEMS, shard_names

from .checkpoint import asked_for, read_json
from .families import FAMILIES
from .weights import MARKS

INDEX = "model_index.json"
TEXT = (".json", ".txt", ".model")  # what parts without weights are made of: a tokenizer, a scheduler
PICKLE_STEMS = ("diffusion_pytorch_model", "pytorch_model")

Read = Callable[[str], Path]  # fetches one file of the repository


def find(source: str | os.PathLike, revision: str | None, precision: str, say: Say) -> Path:
    """The folder of a source: its own path, or that of a snapshot in the hub's cache. Raises HubError."""
    if not hub.is_id(source):
        if revision is not None:
            raise InvalidArgument(f"revision is {revision!r}: only a model on the hub has one, and {source} is a path")
        return Path(source)
    repo = hub.open_repo(
        str(source), revision, (INDEX,), lambda names: None if INDEX in names else no_checkpoint(str(source), names)
    )
    say(f"fetching {repo.id} at {repo.root.name[:8]}")
    index = read_json(repo.root / INDEX)
    return repo.fetch(choose(repo.names, index, precision, lambda name: repo.fetch([name]) / name))


def no_checkpoint(repo_id: str, names: Collection[str]) -> HubError:
    single = sorted(name for name in names if "/" not in name and name.endswith((".safetensors", ".ckpt")))
    if not single:
        return HubError(f"{repo_id} is no checkpoint in diffusers layout: it has no {INDEX}")
    return HubError(
        f"{repo_id} has no {INDEX} but single files: run hf download {repo_id} {single[0]} --local-dir . "
        f"and export that file (there are: {', '.join(single[:5])})"
    )


def choose(names: Collection[str], index: Mapping[str, Any], precision: str, read: Read) -> list[str]:
    """The files that exporting a repository of these ``names`` in this precision reads; ``index`` is its
    model_index.json. Only the index of a sharded part is read on the way. Raises CheckpointError."""
    chosen = [name for name in (INDEX, *hub.PAGES) if name in names]
    family = FAMILIES.get(str(index.get("_class_name")))
    if family is None:
        return chosen  # opening the checkpoint tells what can be exported
    there = {part for part, declared in index.items() if isinstance(declared, list) and declared != [None, None]}
    there -= {part for part in family.requested if not asked_for(family, part, index)}
    chosen += [file for part, file in family.settings.items() if part in there and file in names]
    for part in (each for each in index if each in there):
        if part in family.skipped and part not in family.parts:
            continue
        inside = [name for name in names if name.rpartition("/")[0] == part]
        if part not in family.parts:
            chosen += [name for name in inside if name.endswith(TEXT)]
            continue
        chosen += [name for name in inside if name == f"{part}/config.json"]
        chosen += weights(part, inside, precision, read)
    return sorted(chosen)


def weights(part: str, inside: Collection[str], precision: str, read: Read) -> list[str]:
    """A part's weights in one variant: a file, or an index and its shards; pickles where there are no safetensors."""
    pickled = not any(name.endswith(".safetensors") for name in inside)
    stems, suffix = (PICKLE_STEMS, ".bin") if pickled else (STEMS, ".safetensors")
    for whole, index in candidates(part, stems, suffix, MARKS[precision]):
        if whole in inside:
            return [whole]
        if index in inside:
            return [index, *(f"{part}/{shard}" for shard in shard_names(read(index)))]
    for pair in candidates(part, stems, suffix, (".fp16",)):
        for name in pair:
            if name in inside:
                raise CheckpointError(f"{part}/ holds only {name.rpartition('/')[2]}: export with --precision fp16")
    raise CheckpointError(f"{part}/ holds no weights: expected {' or '.join(f'{stem}{suffix}' for stem in stems)}")


def candidates(part: str, stems: Collection[str], suffix: str, marks: Collection[str]) -> Iterator[tuple[str, str]]:
    """The names of a whole file and of an index that weights can have, first choice first."""
    for stem in stems:
        for mark in marks:
            yield f"{part}/{stem}{mark}{suffix}", f"{part}/{stem}{suffix}.index{mark}.json"
