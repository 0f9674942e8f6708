"""A source as a bundle: its own, or one that is made of a checkpoint for the time being."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffrt import hub, pipeline
from diffrt.bundle import Bundle
from diffrt.errors import HubError, InvalidArgument
from diffrt.folders import Say, building
from diffrt.manifest import MANIFEST

PLAIN = {"precision": "fp32", "prediction_type": None, "attention": "auto", "static": None}


@contextmanager
def opened(
    source: str | os.PathLike[str],
    revision: str | None,
    target: Path,
    asked: Mapping[str, Any],
    say: Say,
    **how: Any,
) -> Iterator[Bundle]:
    """`asked` and `how` are arguments of exporters.export. A bundle is what it is: InvalidArgument where it is asked
    for anything but what PLAIN has."""
    folder = bundle_folder(source, revision)
    if folder is not None:
        for name, value in asked.items():
            if value != PLAIN[name]:
                said = name.replace("_", " ")
                raise InvalidArgument(f"{source} is a bundle: its {said} is what it is; leave {value!r} out")
        yield Bundle.open(folder)
        return
    from .exporting import export as export_components  # needs torch

    with building(target, "bundle-") as aside:
        made = export_components(source, aside / "bundle", revision=revision, progress=say, **asked, **how)
        yield Bundle.open(made)


def bundle_folder(source: str | os.PathLike[str], revision: str | None) -> Path | None:
    """None of a checkpoint."""
    if hub.is_id(source):
        index = "model_index.json"
        repo = hub.open_repo(str(source), revision, index, lambda _: HubError(f"{source} has no {index}"))
        return hub.fetch(str(source), revision) if MANIFEST in repo.names else None
    if str(source) in pipeline.BUNDLES or (Path(source) / MANIFEST).is_file():
        return pipeline.find(source, revision)
    return None
