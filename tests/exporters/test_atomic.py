"""Export leaves a whole bundle or nothing: killed, interrupted or out of space, and never a changed source."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

import diffrt
import exporters
from diffrt import folders
from diffrt.bundle import Bundle
from diffrt.errors import BundleError, ExportError
from diffrt.folders import building, link, publish
from diffrt.manifest import Variant
from exporters import exporting

from .mini import contents

DEAD = 2**22 + 1  # above the largest process number there can be
EXPORT = """
import sys, exporters
exporters.export(sys.argv[1], sys.argv[2], attention="portable", verify=False, progress=lambda s: print(s, flush=True))
"""


def child(script, *arguments, prefix=()):
    root = str(Path(exporters.__file__).parents[1])
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip


def names(folder):
    return sorted(f.name for f in folder.iterdir())


# Processes that end early.


@pytest.fixture(scope="module")
def killed(awkward, tmp_path_factory):
    """A folder in which two exports to one target were killed, at work on the first component and on the second, and
    another in which one was interrupted. The source is a bundle. -> (folder, folder, the interrupted one's status)"""
    kill, interrupt = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("interrupted")
    jobs = [
        (child(EXPORT, awkward.bundle, kill / "dest"), "tracing text_encoder", signal.SIGKILL),
        (child(EXPORT, awkward.bundle, kill / "dest"), "tracing unet", signal.SIGKILL),
        (child(EXPORT, awkward.bundle, interrupt / "dest"), "tracing unet", signal.SIGINT),
    ]
    for job, line, sign in jobs:
        assert any(said.strip() == line for said in job.stdout), job.stderr.read()
        job.send_signal(sign)
    for job, _, _ in jobs:
        job.communicate(timeout=60)
    assert [job.returncode for job, _, _ in jobs[:2]] == [-signal.SIGKILL] * 2
    return kill, interrupt, jobs[2][0].returncode


def test_interrupted(killed):
    _, folder, status = killed
    assert status != 0
    assert names(folder) == []


def test_killed(killed, awkward):
    """Nothing at the target, nothing that loads; the next run removes it all and succeeds."""
    folder, _, _ = killed
    left = list(folder.iterdir())
    assert len(left) == 2
    assert all(f.name.startswith("dest.partial-") for f in left)
    assert sorted(len(list(f.rglob("*.onnx"))) for f in left) == [0, 1]
    for rest in left:
        with pytest.raises(BundleError):
            diffrt.load(rest)
    before = contents(awkward.bundle)

    exporters.export(awkward.bundle, folder / "dest", attention="sliced", verify=False)

    assert names(folder) == ["dest"]
    again = Bundle.open(folder / "dest")
    assert contents(awkward.bundle) == before
    assert [v.attention for v in again.manifest.components["unet"].variants] == ["sliced"]
    for file in awkward.bundle.rglob("*.safetensors"):
        assert file.samefile(folder / "dest" / file.relative_to(awkward.bundle))
    StableDiffusionPipeline.from_pretrained(folder / "dest")
    out = diffrt.load(folder / "dest")("a red apple", num_inference_steps=2, seed=7, output_type="np")
    expected = diffrt.load(awkward.bundle)("a red apple", num_inference_steps=2, seed=7, output_type="np")
    assert abs(out.images - expected.images).max() < 1e-4


# The disk.

FULL = """
import os, subprocess, sys, exporters
from pathlib import Path
from diffrt.errors import ExportError
source, folder, size = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
try:
    exporters.export(source, Path(folder) / "dest", verify=False, progress=print)
except ExportError as error:
    print("ExportError:", error)
print("left:", os.listdir(folder))
"""


def can_mount(folder):
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.parametrize(("share", "traces"), [(0.5, False), (1.03, True)], ids=["weights", "graph"])
def test_disk_full(checkpoint, tmp_path, share, traces):
    """A real file system that runs full, while the weights are copied or when the first graph is written."""
    folder = tmp_path / "out"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("a file system can be mounted by root alone, in a mount namespace")
    pages = sum(-(-len(raw) // 4096) for raw in contents(checkpoint).values())
    job = child(FULL, checkpoint, folder, int(share * pages) * 4096, prefix=("unshare", "-m"))
    said, error = job.communicate(timeout=120)
    assert job.returncode == 0, error
    lines = said.splitlines()
    assert lines[-2:] == [f"ExportError: no space left at {folder}; nothing was written to dest", "left: []"]
    assert ("tracing text_encoder" in lines) == traces
    assert "tracing unet" not in lines
    assert any(line.startswith("copying ") for line in lines)


@pytest.mark.parametrize("call", ["copyfile", "link", "write_graphs", "file_entries"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_writing_fails(checkpoint, tmp_path, monkeypatch, call, number):
    """Wherever it happens; the bundle that was to be replaced stays whole."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(exporting, "write_graphs", lambda *args: [Variant("vae/decoder.onnx", "fp32", "portable")])
    for name in ("trace", "attach", "write_tiles"):  # what is written here needs no graph
        monkeypatch.setattr(exporting, name, lambda *args: None)
    monkeypatch.setattr(exporting, "fit_preview", lambda *args: None)
    if call in ("copyfile", "link"):
        monkeypatch.setattr(shutil if call == "copyfile" else folders, call, fail)
        monkeypatch.setattr(exporting, "link", folders.link)
    else:
        monkeypatch.setattr(exporting, call, fail)
    out = tmp_path / "out"
    (out / "dest").mkdir(parents=True)
    (out / "dest" / "diffrt.json").write_text("the old bundle")
    source = contents(checkpoint)
    with pytest.raises(ExportError) as caught:
        exporters.export(checkpoint, out / "dest", force=True, verify=False)
    assert ("no space left" if number != errno.EIO else os.strerror(number)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(out) == {"dest/diffrt.json": b"the old bundle"}
    assert names(out) == ["dest"]
    assert contents(checkpoint) == source


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, ValueError])
def test_any_other_end_leaves_nothing(tmp_path, error):
    def build():
        with building(tmp_path / "dest") as folder:
            (folder / "unet").mkdir()
            raise error

    with pytest.raises(error):
        build()
    assert names(tmp_path) == []


# What an earlier export left.


def test_leftovers(tmp_path):
    """Those of dead processes go, whatever is in the target's name; everything else stays."""
    target = tmp_path / "a[b]*"
    gone = [f"a[b]*.partial-{DEAD}", f"a[b]*.partial-old-{DEAD}", f"a[b]*.partial-{os.getpid()}"]
    stay = ["a[b]*", "ab.partial-1", f"other.partial-{DEAD}", f"a[b]*.partial-{os.getppid()}"]
    for name in gone + stay:
        (tmp_path / name / "unet").mkdir(parents=True)
    with building(target) as folder:
        assert names(tmp_path) == sorted([*stay, folder.name])
        assert names(folder) == []
    assert names(tmp_path) == sorted(stay)


# Publishing.


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / f"dest.partial-{os.getpid()}"
    folder.mkdir()
    (folder / "diffrt.json").write_text("new")
    return folder


def test_publish(finished, tmp_path):
    publish(finished, tmp_path / "dest")
    assert contents(tmp_path) == {"dest/diffrt.json": b"new"}


@pytest.mark.parametrize("linked", [False, True])
def test_publish_replaces(finished, tmp_path, linked):
    """A link at the target is replaced, and what it points at is left alone."""
    old = tmp_path / ("elsewhere" if linked else "dest")
    old.mkdir()
    (old / "diffrt.json").write_text("old")
    if linked:
        (tmp_path / "dest").symlink_to(old)
    publish(finished, tmp_path / "dest")
    assert names(tmp_path) == (["dest", "elsewhere"] if linked else ["dest"])
    assert (tmp_path / "dest" / "diffrt.json").read_text() == "new"
    assert not (tmp_path / "dest").is_symlink()
    assert not linked or (old / "diffrt.json").read_text() == "old"


def test_publish_fails(finished, tmp_path, monkeypatch):
    """The bundle that was there comes back."""
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "diffrt.json").write_text("old")
    rename = Path.rename

    def fail(self, target):
        if self == finished:
            raise OSError(errno.EIO, "it broke")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="it broke"):
        publish(finished, tmp_path / "dest")
    assert contents(tmp_path / "dest") == {"diffrt.json": b"old"}


# Links.


@pytest.mark.parametrize("copy", [False, True])
def test_link(tmp_path, copy):
    source, target, lines = tmp_path / "a.safetensors", tmp_path / "b.safetensors", []
    source.write_bytes(b"weights")
    link(source, target, copy, lines.append)
    assert target.read_bytes() == b"weights"
    assert source.samefile(target) is not copy
    assert lines == []


def test_link_that_does_not_reach(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", fail)
    source, target, lines = tmp_path / "a.safetensors", tmp_path / "b.safetensors", []
    source.write_bytes(b"weights")
    link(source, target, False, lines.append)
    assert target.read_bytes() == b"weights"
    assert not source.samefile(target)
    assert len(lines) == 1
    assert "copying a.safetensors" in lines[0]
