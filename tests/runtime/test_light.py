"""The light path stays light: what is imported, how long that takes, and what it must never need."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "jax", "flax", "onnx", "transformers", "diffusers")
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_generation_needs_nothing_heavy(sd1_bundle, tmp_path):
    code = BLOCK + "from diffrt.cli import run; code = run(sys.argv[1:]); print(sorted(sys.modules)); sys.exit(code)"
    out = tmp_path / "a.png"
    modules = python(code, "generate", "a", "--model", sd1_bundle, "--steps", 2, "-o", out)
    assert out.stat().st_size > 0
    assert not {f"'{name}'" for name in HEAVY} & set(modules.strip("[]\n").split(", "))
    python(BLOCK + "from diffrt.cli import run; sys.exit(run(sys.argv[1:]))", "verify", sd1_bundle)


def test_export_without_torch_names_the_extra(tmp_path):
    code = BLOCK + "from diffrt.cli import run; print(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", tmp_path, tmp_path / "x"], capture_output=True, text=True
    )
    assert done.stdout == "2\n"
    assert done.stderr.startswith("diffrt: exporting needs ")
    assert "pip install 'diffrt[export]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_import_is_small():
    """At most 70 MB. How long it takes is measured in tests/full_size/test_start.py."""
    code = (
        "import diffrt, diffrt.schedulers\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) / 1024)"
    )
    assert float(python(code)) <= 70


def test_help_imports_nothing_but_click():
    code = "import sys; from diffrt.cli import run; run(['generate', '--help']); print(sorted(sys.modules))"
    modules = python(code).rpartition("[")[2]
    assert not {"'numpy'", "'onnxruntime'", "'PIL'", "'tokenizers'"} & set(modules.strip("]\n").split(", "))


def test_lazy_names():
    code = "import diffrt; diffrt.load, diffrt.Pipeline, diffrt.schedulers.DDIMScheduler, diffrt.InvalidArgument"
    python(code + "\ntry:\n    diffrt.nothing\nexcept AttributeError as error:\n    assert 'nothing' in str(error)")
