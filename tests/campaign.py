"""Two campaigns against bundles: exports killed at random moments, and bundles mutated at random.

    python -m tests.campaign kill FOLDER --count 50        # FOLDER is for scratch
    python -m tests.campaign mutate FOLDER --count 200

The laws: a killed export leaves nothing that loads but a whole bundle, and the next export succeeds; a mutated bundle
gives one named error of one line, or works, or works until `diffrt verify` names the damage - within LIMIT seconds,
and no process dies. Every case is named by its seed, and repeated by it. Exit code 1 where a law is broken.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from diffrt.bundle import Bundle
from diffrt.errors import BundleError, DiffrtError
from diffrt.manifest import MANIFEST
from diffrt.safetensors_header import HeaderError, header_length

LIMIT = 5.0  # seconds
EXPORT = "import sys, exporters; exporters.export(sys.argv[1], sys.argv[2], verify=False)"

# Mutations: each changes one file of a copy, and says what it did.

Change = Callable[[random.Random, Path, Path], str]


def truncate(rng: random.Random, root: Path, file: Path) -> str:
    size = rng.randrange(file.stat().st_size)
    file.write_bytes(file.read_bytes()[:size])
    return f"cut to {size} bytes"


def flip(rng: random.Random, root: Path, file: Path) -> str:
    data = bytearray(file.read_bytes())
    places = [rng.randrange(min(len(data), rng.choice([64, 4096, len(data)]))) for _ in range(rng.choice([1, 1, 8]))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"bits flipped at {places}"


def grow(rng: random.Random, root: Path, file: Path) -> str:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 100)))
    return "bytes appended"


def swap(rng: random.Random, root: Path, file: Path) -> str:
    other = rng.choice([f for f in files(root) if f.suffix == file.suffix and f != file] or files(root))
    a, b = file.read_bytes(), other.read_bytes()
    file.write_bytes(b)
    other.write_bytes(a)
    return f"swapped with {other.relative_to(root)}"


def empty(rng: random.Random, root: Path, file: Path) -> str:
    file.write_bytes(b"")
    return "emptied"


def delete(rng: random.Random, root: Path, file: Path) -> str:
    file.unlink()
    if rng.random() < 0.5:
        file.mkdir()
        return "replaced by a folder"
    return "deleted"


def deep(rng: random.Random, root: Path, file: Path) -> str:
    opening = rng.choice(["[", '{"a":'])
    file.write_text(opening * rng.choice([1000, 200_000]))
    return "deep JSON"


def huge_header(rng: random.Random, root: Path, file: Path) -> str:
    length = rng.choice([2**63, 2**40, 99_000_000, 10_000])
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    return f"header of {length} bytes"


def header_field(rng: random.Random, root: Path, file: Path) -> str:
    """A safetensors header that says something else: shape, dtype or offsets of a tensor."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    name = rng.choice([key for key in header if key != "__metadata__"])
    field = rng.choice(["shape", "dtype", "data_offsets"])
    value = {"shape": [2**40, 2**40], "dtype": rng.choice(["F64", "X", 3]), "data_offsets": [0, 2**62]}[field]
    header[name][field] = value if rng.random() < 0.5 else header[rng.choice(list(header))].get(field)
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data[end:])
    return f"{field} of {name}"


def manifest_value(rng: random.Random, root: Path, file: Path) -> str:
    """One value anywhere in the manifest becomes something else: a path outside, a wrong shape, a wrong type."""
    record = json.loads((root / MANIFEST).read_text("utf-8"))
    node, where = record, []
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        where.append(str(key))
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.1:
            break
        node = node[key]
    strange = [
        "../../etc/passwd",
        "/etc/passwd",
        "unet/../../x",
        "",
        None,
        -1,
        2**70,
        1e308,
        [],
        {},
        True,
        "a\0b",
        "unet",
    ]
    value = rng.choice(strange)
    if isinstance(node, dict) and rng.random() < 0.3:
        node[str(value)] = node.pop(key)
    else:
        node[key] = value
    (root / MANIFEST).write_text(json.dumps(record), "utf-8")
    return f"{'.'.join(where)} became {value!r}"


def graph_path(rng: random.Random, root: Path, file: Path) -> str:
    """The weight file a graph points at becomes another one, of a name as long."""
    data = file.read_bytes()
    names = [f.name for f in files(root) if f.suffix == ".safetensors"]
    old = next(name for name in names if name.encode() in data)
    new = rng.choice(["../" * 40, "/etc/passwd/" * 9, "text_encoder/x" * 5])[: len(old)]
    file.write_bytes(data.replace(old.encode(), new.encode()))
    return f"weights at {new}"


MUTATIONS: dict[str, tuple[Change, ...]] = {  # by the suffix of the file they are for
    "": (truncate, flip, flip, grow, swap, empty, delete),
    ".json": (deep, manifest_value, manifest_value),
    ".safetensors": (huge_header, header_field, header_field),
    ".onnx": (flip, flip, graph_path),
}


def files(root: Path) -> list[Path]:
    return sorted(f for f in root.rglob("*") if f.is_file())


def rehash(root: Path, file: Path) -> None:
    """Make the manifest fit a changed file: the damage is then somebody's work."""
    record = json.loads((root / MANIFEST).read_text("utf-8"))
    data = file.read_bytes()
    entry = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    if file.suffix == ".safetensors":
        try:
            entry["header_sha256"] = sha256(data[: header_length(file)]).hexdigest()
        except HeaderError:
            entry["header_sha256"] = "0" * 64
    record["files"][file.relative_to(root).as_posix()] = entry
    (root / MANIFEST).write_text(json.dumps(record), "utf-8")


def mutate(bundle: Path, copy: Path, seed: int) -> str:
    """Write a mutated copy and say how it is one."""
    rng = random.Random(seed)
    shutil.copytree(bundle, copy)
    suffix = rng.choice(list(MUTATIONS))
    file = rng.choice([f for f in files(copy) if f.suffix == suffix or not suffix])
    change = rng.choice(MUTATIONS[suffix])
    done = change(rng, copy, file)
    subject = MANIFEST if change is manifest_value else file.relative_to(copy).as_posix()
    manifest = copy / MANIFEST  # which a swap may have moved away
    whole = manifest.is_file() and manifest.read_bytes() == (bundle / MANIFEST).read_bytes()
    if whole and file.is_file() and rng.random() < 0.5:
        rehash(copy, file)
        done += ", and the manifest fits"
    return f"{subject}: {done}"


def outcome(copy: Path) -> str:
    """What a user of the bundle meets. Runs in a process of its own."""
    import diffrt
    from diffrt.verify import verify

    try:
        pipe = diffrt.load(copy)
        pipe("a", num_inference_steps=1, seed=0)
    except DiffrtError as error:
        return f"{type(error).__name__}: {error}"
    try:
        for _ in verify(Bundle.open(copy)):
            pass
    except DiffrtError as error:
        return f"works, but verify says {type(error).__name__}: {error}"
    return "works"


def mutations(bundle: Path, folder: Path, seeds: range, say: Callable[[str], None]) -> list[str]:
    """The cases that break the law."""
    context = multiprocessing.get_context("spawn")
    broken, seen = [], Counter()
    pool = context.Pool(1)
    pool.apply(outcome, (bundle,))  # imports are done before anything is timed
    for seed in seeds:
        copy = folder / f"mutant-{seed}"
        what = mutate(bundle, copy, seed)
        started = time.perf_counter()
        try:
            told = pool.apply_async(outcome, (copy,)).get(timeout=10 * LIMIT)
        except multiprocessing.TimeoutError:  # it hangs, or the process died: the pool cannot tell
            told = "HANG or CRASH"
        except Exception as error:
            told = f"UNNAMED {type(error).__name__}: {error}"
        took = time.perf_counter() - started
        if "\n" in told or took > LIMIT or told.startswith(("HANG", "UNNAMED")):
            broken.append(f"seed {seed}: {what} -> {told} ({took:.1f} s)")
            pool.terminate()
            pool = context.Pool(1)
            pool.apply(outcome, (bundle,))
        seen[told.partition(":")[0]] += 1
        say(f"{seed}: {what} -> {told:.150}")
        shutil.rmtree(copy)
    pool.terminate()
    say(f"{len(seeds)} mutants: {dict(seen)}")
    return broken


# Kills.


def kills(checkpoint: Path, folder: Path, seeds: range, say: Callable[[str], None]) -> list[str]:
    """The cases that break the law. The moments are spread over the time a whole export takes here."""
    command, target = [sys.executable, "-c", EXPORT, str(checkpoint)], folder / "dest"
    started = time.perf_counter()
    subprocess.run([*command, str(target)], check=True, capture_output=True)
    whole = time.perf_counter() - started
    shutil.rmtree(target)
    broken = []
    for seed in seeds:
        moment = random.Random(seed).uniform(0, whole * 1.02)
        job = subprocess.Popen([*command, str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        job.send_signal(signal.SIGKILL)
        job.wait()
        left = sorted(f.name for f in folder.iterdir())
        for name in left:
            try:
                Bundle.open(folder / name)
                if name != target.name:
                    broken.append(f"seed {seed}: {name} loads")
            except BundleError:
                if name == target.name:
                    broken.append(f"seed {seed}: {name} is there and does not load")
        say(f"{seed}: killed after {moment:.1f} of {whole:.1f} s, left {left}")
        if target.exists():
            shutil.rmtree(target)
    subprocess.run([*command, str(target)], check=True, capture_output=True)
    Bundle.open(target)
    if (rest := sorted(f.name for f in folder.iterdir())) != [target.name]:
        broken.append(f"the export after the last kill left {rest}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", choices=["kill", "mutate"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    from tests.exporters.mini import write_mini

    checkpoint, seeds = write_mini(options.folder / "checkpoint"), range(options.seed, options.seed + options.count)
    work = options.folder / "work"
    work.mkdir()
    if options.campaign == "kill":
        broken = kills(checkpoint, work, seeds, print)
    else:
        import exporters

        broken = mutations(exporters.export(checkpoint, options.folder / "bundle"), work, seeds, print)
    print("\n".join(broken) or "every law holds")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
