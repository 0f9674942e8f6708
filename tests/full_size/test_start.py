"""How long a newcomer waits: the import, and the first picture of the default model from process start to file.

pytest -m slow tests/full_size/test_start.py -s
"""

import statistics
import sys

import pytest

from .measure import measured

pytestmark = pytest.mark.slow

IMPORT = (
    "import time; start = time.perf_counter(); import diffrt, diffrt.schedulers; print(time.perf_counter() - start)"
)


def test_import():
    runs = [measured(sys.executable, "-c", IMPORT) for _ in range(7)]
    seconds, peak = statistics.median(float(text) for _, _, text in runs), max(peak for _, peak, _ in runs)
    print(f"\nimport diffrt, diffrt.schedulers: {seconds:.3f} s, {peak * 1000:.0f} MB")
    assert seconds <= 0.25
    assert peak <= 0.070


def test_first_picture(tmp_path):
    command = [sys.executable, "-m", "diffrt", "generate", "a red apple", "--steps", "20", "--seed", "7"]
    runs = [measured(*command, "-o", str(tmp_path / "apple.png")) for _ in range(5)]
    seconds, peak = statistics.median(seconds for seconds, _, _ in runs), max(peak for _, peak, _ in runs)
    print(f"\ndiffrt generate, 20 steps, process start to file: {seconds:.2f} s, {peak:.2f} GB")
    assert seconds <= 3
