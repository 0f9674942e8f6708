"""Time, peak resident memory and printed text of a whole command, its child processes included.

python -m tests.full_size.measure COMMAND...
"""

import resource
import subprocess
import sys
import time


def measured(*command: str) -> tuple[float, float, str]:
    """(seconds, GB of the largest process, output). Runs in a process of its own, so that figures do not mix."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    text, _, figures = done.stdout.strip().rpartition("\n")
    if done.returncode:
        raise AssertionError(done.stdout)
    seconds, peak = figures.split()
    return float(seconds), float(peak), text


if __name__ == "__main__":
    start = time.perf_counter()
    code = subprocess.run(sys.argv[1:]).returncode
    seconds = time.perf_counter() - start
    print(f"{seconds:.3f} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9:.3f}")
    sys.exit(code)
