"""Here before any library is imported."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1 ...
if WORKER and hasattr(os, "sched_setaffinity"):  # a core each, or the libraries' threads fight over them
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})
