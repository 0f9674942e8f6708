"""Session-wide fixtures: tiny checkpoints and the bundles exported from them, made once, to be read and not written."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before diffusers or transformers are imported

import pytest

from .checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def sd1_checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("sd1") / "checkpoint", "sd1", "2022")


@pytest.fixture(scope="session")
def sd2_checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("sd2") / "checkpoint", "sd2", "2026")


def exported(checkpoint):
    import exporters

    return exporters.export(checkpoint, checkpoint.with_name("bundle"), verify=False)


@pytest.fixture(scope="session")
def sd1_bundle(sd1_checkpoint):
    return exported(sd1_checkpoint)


@pytest.fixture(scope="session")
def sd2_bundle(sd2_checkpoint):
    return exported(sd2_checkpoint)
