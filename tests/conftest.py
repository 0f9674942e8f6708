"""Session-wide fixtures: tiny checkpoints and the bundles exported from them, made once, to be read and not written.

Tracing takes most of a test run. Where DIFFRT_TEST_CACHE names a folder, they are kept there from run to run, apart for
each state of the code that makes them.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from . import WORKER
from .checkpoints import write_checkpoint

REPOSITORY = Path(__file__).parents[1]
MAKERS = (
    "exporters/**/*.py", "diffrt/*configs.py", "diffrt/stable_diffusion.py", "diffrt/weight_files.py",
    "diffrt/manifest.py", "diffrt/strict.py", "tests/checkpoints.py", "tests/conftest.py",
)  # fmt: skip


def state_of_the_code() -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for file in sorted(file for pattern in MAKERS for file in REPOSITORY.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def kept(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills where no run has."""
    run = factory.getbasetemp().parent if WORKER else factory.getbasetemp()  # of all workers
    place = Path(os.environ.get("DIFFRT_TEST_CACHE") or run)
    place.mkdir(parents=True, exist_ok=True)
    folder = place / f"{name}-{state_of_the_code()}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            fresh = folder.with_name(f"{folder.name}.fresh")
            shutil.rmtree(fresh, ignore_errors=True)
            make(fresh)
            fresh.rename(folder)
    return folder


def made(kind: str, form: str, factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `checkpoint` and, exported from it, `bundle`."""
    import exporters

    def make(folder: Path) -> None:
        exporters.export(write_checkpoint(folder / "checkpoint", kind, form), folder / "bundle", verify=False)

    return kept(f"{kind}-{form}", factory, make)


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory):
    return made("sd1", "2022", tmp_path_factory)


@pytest.fixture(scope="session")
def sd2_folder(tmp_path_factory):
    return made("sd2", "2026", tmp_path_factory)


@pytest.fixture(scope="session")
def inpaint_folder(tmp_path_factory):
    return made("inpaint", "2026", tmp_path_factory)


@pytest.fixture(scope="session")
def sd1_checkpoint(sd1_folder):
    return sd1_folder / "checkpoint"


@pytest.fixture(scope="session")
def sd2_checkpoint(sd2_folder):
    return sd2_folder / "checkpoint"


@pytest.fixture(scope="session")
def sd1_bundle(sd1_folder):
    return sd1_folder / "bundle"


@pytest.fixture(scope="session")
def sd2_bundle(sd2_folder):
    return sd2_folder / "bundle"
