"""What diffrt.flax needs and what it must not."""

import subprocess
import sys

CODE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
import diffrt
try:
    import diffrt.flax
except diffrt.DiffrtError as error:
    print(error)
"""


def output(*blocked):
    done = subprocess.run([sys.executable, "-c", CODE, ",".join(blocked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_jax():
    assert output("jax") == "diffrt.flax needs jax: pip install 'diffrt[flax]'\n"


def test_nothing_else_heavy():
    assert output("torch", "transformers", "diffusers", "onnx", "onnxruntime", "flax") == ""
