"""A checkpoint folder in diffusers layout: its model_index.json, the family it belongs to, and each part's config."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrt.configs import read_json
from diffrt.errors import CheckpointError, nearest

from .families import FAMILIES
from .spec import Component, Family
from .weights import Weights, open_weights


class PartConfig(dict[str, Any]):
    """A part's config.json; asking for a key that it lacks is a CheckpointError that names both.

    Of a config for both of CLIP's halves, as some text encoders have, the text's half where `text` is asked for.
    """

    def __init__(self, file: Path, text: bool = False):
        record = read_json(file)
        super().__init__(record["text_config"] if text and isinstance(record.get("text_config"), dict) else record)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self.file} lacks the key {key!r}; save the checkpoint again with today's diffusers")


@dataclass(frozen=True)
class Checkpoint:
    root: Path
    family: Family
    configs: Mapping[str, Mapping[str, Any]]  # part -> config.json
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]  # model_index.json
    skipped: tuple[str, ...]  # parts that are there and are left behind

    @property
    def registered(self) -> bool:
        """Whether another process finds its family by its pipeline class."""
        return self.family in FAMILIES.values()

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """The family's, of the text encoders that are there."""
        there = {
            name: tuple(source for source in sources if source.partition(".")[0] in self.configs)
            for name, sources in self.family.conditions.items()
        }
        return {name: sources for name, sources in there.items() if sources}

    @property
    def tokenizers(self) -> dict[str, str]:
        return {encoder: folder for encoder, folder in self.family.tokenizers.items() if encoder in self.configs}

    @property
    def settings(self) -> tuple[str, ...]:
        """The files that go with parts of it."""
        return tuple(file for part, file in self.family.settings.items() if part in self.configs)

    @property
    def components(self) -> tuple[Component, ...]:
        try:
            return self.family.components(self.configs)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.root}: a config.json holds a value of the wrong kind: {error}") from error

    def weights(self, part: str, precision: str) -> Weights:
        return open_weights(self.root / part, precision)


def asked_for(family: Family, part: str, index: Mapping[str, Any]) -> bool:
    """Whether a checkpoint wants an optional part that it has; where it says nothing it does."""
    return part not in family.requested or index.get(family.requested[part], True) is True


def open_checkpoint(source: str | os.PathLike, family: Family | None = None) -> Checkpoint:
    """Read a folder's JSON and check that every part the family needs is there: by default the one that the registry
    has for it. Raises CheckpointError."""
    root = Path(source)
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a folder")
    if not (root / "model_index.json").is_file():
        raise CheckpointError(f"{root} is no checkpoint in diffusers layout: it has no model_index.json")
    index = read_json(root / "model_index.json")
    kind = index.get("_class_name")
    if family is None:
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise CheckpointError(f"{root}: pipeline class {kind!r} cannot be exported; {nearest(str(kind), FAMILIES)}")
        family = FAMILIES[kind]
    configs = {}
    for part, classes in family.parts.items():
        declared = index.get(part)
        if part in family.optional and (declared in (None, [None, None]) or not asked_for(family, part, index)):
            continue
        name = declared[1] if isinstance(declared, list) and len(declared) == 2 else None
        if name is None:
            raise CheckpointError(f"{root}: model_index.json declares no {part}; {kind} needs one")
        if name not in classes:
            raise CheckpointError(f"{root}: {part} is a {name}; allowed: {' or '.join(classes)}")
        if not (root / part / "config.json").is_file():
            raise CheckpointError(f"{root}: component {part} is missing: there is no {part}/config.json")
        configs[part] = PartConfig(root / part / "config.json", part in family.tokenizers)
    tokenizers = [folder for encoder, folder in family.tokenizers.items() if encoder in configs]
    for part, files in (
        ("scheduler", ("scheduler_config.json",)),
        *((folder, ("vocab.json", "tokenizer.json", "vocab.txt", "spiece.model")) for folder in tokenizers),
        *((str(Path(file).parent), (Path(file).name,)) for part, file in family.settings.items() if part in configs),
    ):
        if not any((root / part / f).is_file() for f in files):
            raise CheckpointError(f"{root}: component {part} is missing: there is no {part}/{' or '.join(files)}")
    kept = {*configs, *(str(Path(file).parent) for part, file in family.settings.items() if part in configs)}
    skipped = tuple(p for p in family.skipped if p not in kept and index.get(p) not in (None, [None, None]))
    return Checkpoint(root, family, configs, read_json(root / "scheduler" / "scheduler_config.json"), index, skipped)
