"""Bundles on a hub: the real client against a hub on this machine. What is asked for, what is kept, what is said."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from onnx import helper
from PIL import Image

import diffrt
from diffrt import hub as hubs
from diffrt.bundle import Bundle
from diffrt.errors import InvalidArgument
from diffrt.image import read_parameters
from diffrt.manifest import MANIFEST
from diffrt.pipeline import BUNDLES
from tests.hub_server import WRITER, Client, Hub, one_line, read_folder, serving
from tests.runtime.test_onnx_file import external

EMOJI = BUNDLES["emoji"]
NEEDED = {MANIFEST, *Bundle.open(EMOJI).manifest.files}
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
NOWHERE = "http://127.0.0.1:1"  # no one listens there
DRAW = ("--steps", "1", "--height", "32", "--width", "32", "--seed", "3")


@pytest.fixture
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    return Client(hub, tmp_path / "home")


@pytest.fixture
def files():
    """The bundle that comes along, with what other tools leave beside it."""
    strangers = {"README.md": b"---\n---\n", "unet/diffusion_pytorch_model.bin": b"pickle", "model.ckpt": b"pickle"}
    return read_folder(EMOJI) | strangers


def edited(files, change):
    record = json.loads(files[MANIFEST])
    change(record)
    return files | {MANIFEST: json.dumps(record).encode()}


@pytest.mark.parametrize("model", ["org/name", "o/n", "My-Org/stable-diffusion-v1.5", "_a/b_c"])
def test_ids(model):
    assert hubs.is_id(model)


@pytest.mark.parametrize(
    "model",
    ["emoji", "./org", "./org/name", "../org/name", "/org/name", "a/b/c", "org/", "a b/c", "ö/n", Path("a/b")],
)
def test_not_ids(model):
    assert not hubs.is_id(model)


def test_a_folder_comes_before_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    Path("org/name").symlink_to(EMOJI)
    assert not hubs.is_id("org/name")
    assert diffrt.load("org/name").bundle.root == Path("org/name")
    with pytest.raises(InvalidArgument, match="only a model on the hub"):
        diffrt.load("org/name", revision="main")
    with pytest.raises(InvalidArgument, match="only a model on the hub"):
        diffrt.load("emoji", revision="main")


def test_importing_it_does_not_import_the_client(client):
    done = client.python("import sys, diffrt.pipeline, diffrt.hub; print('huggingface_hub' in sys.modules)")
    assert done.stdout == "False\n"


def test_a_published_bundle_draws(hub, client, files, tmp_path):
    """Exactly its files are fetched, once; then the cache does, without the hub too, and where that is forbidden."""
    hub.publish("org/emoji", files)
    outs = [tmp_path / f"{number}.png" for number in range(4)]
    lines = [("generate", "a red apple", "--model", "org/emoji", "-o", out, *DRAW) for out in outs]
    assert client.runs(*lines[:2]) == [(0, f"{out}  seed 3\n", "") for out in outs[:2]]
    assert sorted(hub.sent) == sorted(NEEDED)
    hub.forget()
    assert client.run(*lines[2], HF_HUB_OFFLINE="1") == (0, f"{outs[2]}  seed 3\n", "")
    assert client.run(*lines[3], HF_ENDPOINT=NOWHERE) == (0, f"{outs[3]}  seed 3\n", "")
    assert hub.log == []
    expected = diffrt.load("emoji")("a red apple", num_inference_steps=1, height=32, width=32, seed=3).images[0]
    for out in outs:
        assert read_parameters(out)["model"] == "org/emoji"
        with Image.open(out) as picture:
            assert picture.tobytes() == expected.tobytes()


def test_revisions(hub, client, files):
    repo = hub.publish("org/emoji", files)
    first = repo.branches["main"]
    hub.publish("org/emoji", edited(files, lambda record: record["defaults"].update(num_inference_steps=3)))
    hub.publish("org/emoji", files, "old/one")
    assert client.fetch("org/emoji").name == repo.branches["main"]
    hub.forget()
    assert client.fetch("org/emoji", "old/one").name == repo.branches["old/one"]
    assert hub.sent == [MANIFEST]  # all else is in the cache
    assert client.fetch("org/emoji", first).name == first
    code, out, _ = client.run("inspect", "org/emoji")
    assert code == 0
    assert "3 steps" in out


def test_a_broken_download_is_resumed(hub, client, files):
    hub.publish("org/emoji", files)
    hub.cut[UNET] = 1
    root = client.fetch("org/emoji")
    assert (root / UNET).read_bytes() == files[UNET]
    ranges = [int(line.split("bytes=")[1].rstrip("-")) for line in hub.log if f"{UNET} bytes=" in line]
    assert len(ranges) == 1
    assert 0 < ranges[0] < len(files[UNET])
    assert hub.sent.count(UNET) == 2


def test_a_truncated_download(hub, client, files):
    hub.publish("org/emoji", files)
    hub.short.add(UNET)
    assert "broke off (Consistency check failed" in client.fails("inspect", "org/emoji")
    assert not list(client.cache.rglob("*.incomplete"))
    hub.short.clear()
    hub.forget()
    assert client.run("inspect", "org/emoji")[0] == 0
    assert UNET in hub.sent


def test_what_the_hub_lacks(hub, client, files):
    hub.publish("org/emoji", files)
    hub.publish("org/gated", files, gated=True)
    hub.publish("org/private", files, private=True)
    hub.publish("org/checkpoint", {"model_index.json": b"{}"})
    hub.publish("org/other", {"config.json": b"{}"})
    hub.publish("org/partial", {name: content for name, content in files.items() if name != UNET})
    hub.publish("org/ugly", files | {MANIFEST: b"{"})
    expected = (
        (["inspect", "org/none"], "'org/none' is no folder here, and no model on"),
        (["inspect", "org/private"], "HF_TOKEN"),
        (["inspect", "org/gated"], f"gated: accept its terms on {hub.url}/org/gated, then set HF_TOKEN"),
        (["inspect", "org/em--oji"], "'org/em--oji' is no hub id"),
        (["inspect", "org/checkpoint"], "run diffrt export org/checkpoint DEST"),
        (["verify", "org/other"], "it has no diffrt.json"),
        (["inspect", "org/partial"], f"org/partial is incomplete: it has no {UNET}"),
        (["inspect", "org/ugly"], "diffrt.json is not JSON"),
        (["generate", "a", "--model", "org/emoji", "--revision", "nope"], "org/emoji has no revision 'nope'"),
        (["generate", "a", "--revision", "nope"], "only a model on the hub"),
    )
    for (_, says), result in zip(expected, client.runs(*(line for line, _ in expected)), strict=True):
        assert says in one_line(*result)
    assert set(hub.sent) == {MANIFEST}
    opened = client.runs(["inspect", "org/gated"], ["inspect", "org/private"], HF_TOKEN=WRITER)
    assert [code for code, *_ in opened] == [0, 0]


def test_a_manifest_that_leaves_its_folder(hub, client, files):
    paths = ["../outside.txt", "unet/../../outside.txt", "/etc/outside.txt", "..\\outside.txt"]
    entry = {"bytes": 1, "sha256": "0" * 64}
    for number, path in enumerate(paths):
        evil = edited(files, lambda record, path=path: record["files"].update({path: entry}))
        hub.publish(f"org/evil{number}", evil | {path: b"x"})
    for result in client.runs(*(["inspect", f"org/evil{number}"] for number in range(len(paths)))):
        assert "a relative path inside the bundle" in one_line(*result)
    assert hub.sent == [MANIFEST] * len(paths)


def test_no_answer(hub, client, files):
    hub.publish("org/emoji", files)
    assert "Connection refused): check the network" in client.fails("inspect", "org/emoji", HF_ENDPOINT=NOWHERE)
    assert "HF_HUB_OFFLINE is set: unset it" in client.fails("inspect", "org/emoji", HF_HUB_OFFLINE="1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        says = client.fails("inspect", "org/emoji", HF_ENDPOINT=endpoint, HF_HUB_ETAG_TIMEOUT="1")
        assert f"needs {endpoint}, which does not answer (" in says
    hub.down = 503
    assert "answered 503 for org/emoji" in client.fails("inspect", "org/emoji")
    assert hub.sent == []


def test_half_a_cache_without_the_hub(hub, client, files):
    hub.publish("org/emoji", files)
    root = client.fetch("org/emoji")
    (root / UNET).unlink()
    assert "HF_HUB_OFFLINE is set: unset it" in client.fails("inspect", "org/emoji", HF_HUB_OFFLINE="1")
    hub.down = 502
    assert "answered 502" in client.fails("inspect", "org/emoji")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_no_room(hub, client, files):
    """A limit on the size of files stands for a full disk."""
    hub.publish("org/emoji", files)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    done = client.python(limit + "from diffrt.cli import run; print(run(['inspect', 'org/emoji']))")
    assert done.stdout == "2\n"
    assert done.stderr.startswith(f"diffrt: File too large in {client.cache}: make room, or set HF_HOME")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def bundle(tmp_path):
    """A bundle with a page, a licence, and files that are nobody's business."""
    folder = shutil.copytree(EMOJI, tmp_path / "bundle")
    (folder / "README.md").write_text("A model.")
    (folder / "LICENSE").write_text("Do what you like.")
    (folder / ".env").write_text("SECRET=1")
    (folder / "unet" / "notes.txt").write_text("not for others")
    return folder


def test_push(hub: Hub, client, bundle, tmp_path):
    token = {"HF_TOKEN": WRITER}
    assert client.run("push", bundle, "me/model", "--private", **token) == (0, f"{hub.url}/me/model\n", "")
    repo = hub.repos["me/model"]
    assert repo.private
    assert len(repo.commits) == 2  # the hub's own, and one
    published = repo.commits[repo.branches["main"]]
    published.pop(".gitattributes")
    expected = {name: (bundle / name).read_bytes() for name in (*NEEDED, "README.md", "LICENSE")}
    assert published == expected
    root = client.fetch("me/model", **token)
    assert {name: (root / name).read_bytes() for name in NEEDED} == {name: expected[name] for name in NEEDED}

    done = client.run("push", root, "me/model", "--revision", "next", **token)  # from the cache, links and all
    assert done == (0, f"{hub.url}/me/model/tree/next\n", "")
    assert repo.branches["next"] != repo.branches["main"]
    assert client.run("push", root, "me/model", "--revision", "next", **token)[0] == 0


def test_what_cannot_be_pushed(hub: Hub, client, bundle):
    hub.publish("org/theirs", {})
    assert "refuses access to org/theirs (403)" in client.fails("push", bundle, "org/theirs", HF_TOKEN="hf_reader")
    assert "HF_TOKEN or run hf auth login" in client.fails("push", bundle, "me/model")
    assert "no hub id" in client.fails("push", bundle, "model..")
    assert "HF_HUB_OFFLINE is set" in client.fails("push", bundle, "me/model", HF_HUB_OFFLINE="1")
    hub.forget()
    (bundle / "unet" / "config.json").write_text("{}")
    assert "unet/config.json" in client.fails("push", bundle, "me/model", HF_TOKEN=WRITER)
    assert (hub.log, list(hub.repos)) == ([], ["org/theirs"])


def test_another_programs_graphs(hub, client, tmp_path):
    """Only they, with the data that they keep beside them and what is said of them, are fetched."""
    text = external(location="model.onnx_data", offset="0", length="24")
    graph = helper.make_model(helper.make_graph([], "g", [], [], initializer=[text])).SerializeToString()
    plain = helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()
    needed = {
        "model_index.json": b"{}", "scheduler/scheduler_config.json": b"{}", "unet/model.onnx": graph,
        "unet/model.onnx_data": b"0" * 24, "unet/config.json": b"{}", "vae_decoder/model.onnx": plain,
        "tokenizer/vocab.json": b"{}", "tokenizer/tokenizer_config.json": b"{}",
    }  # fmt: skip
    beside = {"unet/diffusion_pytorch_model.bin": b"", "unet/model.onnx_old": b"", "safety_checker/model.onnx": plain}
    hub.publish("org/old", needed | beside, branch="onnx")
    folder = client.fetch("org/old", "onnx")
    assert set(read_folder(folder)) == set(needed)
    hub.down = 503
    assert client.fetch("org/old", "onnx") == folder
    hub.down = 0
    hub.publish("org/bad", needed | {"unet/model.onnx": graph.replace(b"model.onnx_data", b"../../../secret")})
    assert "outside of the graph's folder" in client.fails("inspect", "org/bad")
