"""Checkpoints on a hub: which files are chosen, and one export with the real client from a hub on this machine."""

import json

import pytest

import exporters
from diffrt.bundle import Bundle
from diffrt.errors import CheckpointError, InvalidArgument
from exporters.entries import file_entries
from exporters.hub import choose, no_checkpoint
from tests.hub_server import Client, etag, one_line, read_folder, serving

from .mini import write_mini

PARTS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": False,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SMALL = [
    "LICENSE", "README.md", "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json", "unet/config.json", "vae/config.json",
]  # fmt: skip
STRANGERS = [
    ".gitattributes", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json", "safety_checker/model.safetensors", "unet/model.onnx", "unet/model.onnx_data",
    "unet/flax_model.msgpack", "text_encoder/tf_model.h5", "image_encoder/model.safetensors", "unet/sub/config.json",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/openvino_model.xml", "samples/a.png",
]  # fmt: skip


def weights(mark="", suffix=".safetensors", **stems):
    return [f"{part}/{stem}{mark}{suffix}" for part, stem in (PARTS | stems).items()]


def chosen(names, precision="fp32", read=None, index=INDEX):
    return choose(frozenset(names), index, precision, read)


PLAIN, HALF = weights(), weights(".fp16")
PICKLES = [
    *weights(suffix=".bin", text_encoder="pytorch_model"),
    *weights(".fp16", ".bin", text_encoder="pytorch_model"),
]


@pytest.mark.parametrize(("precision", "expected"), [("fp32", PLAIN), ("fp16", HALF)])
def test_one_variant_and_nothing_else(precision, expected):
    names = [*SMALL, *STRANGERS, *PLAIN, *HALF, *PICKLES]
    assert chosen(names, precision) == sorted([*SMALL, *expected])


def test_the_safety_checker_where_it_is_asked_for():
    names = [*SMALL, *STRANGERS, *PLAIN]
    beside = [name for name in STRANGERS if name.startswith(("safety_checker/", "feature_extractor/"))]
    for index in (INDEX | {"requires_safety_checker": True}, {k: v for k, v in INDEX.items() if "requires" not in k}):
        assert chosen(names, index=index) == sorted([*SMALL, *PLAIN, *beside])


def test_half_precision_where_there_is_any():
    assert chosen([*SMALL, *PLAIN, HALF[1]], "fp16") == sorted([*SMALL, PLAIN[0], HALF[1], PLAIN[2]])


def test_pickles_only_of_a_part_without_safetensors():
    names = [*SMALL, *PLAIN[:2], *PICKLES]
    assert chosen(names) == sorted([*SMALL, *PLAIN[:2], "vae/diffusion_pytorch_model.bin"])
    assert chosen(names, "fp16") == sorted([*SMALL, *PLAIN[:2], "vae/diffusion_pytorch_model.fp16.bin"])
    assert chosen([*SMALL, *PICKLES[:3]]) == sorted([*SMALL, *PICKLES[:3]])


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize(("precision", "mark"), [("fp32", ""), ("fp16", ".fp16")])
def test_shards_are_those_of_the_index(tmp_path, suffix, precision, mark):
    stem = "diffusion_pytorch_model"
    shards = [f"unet/{stem}{mark}-0000{k}-of-00002{suffix}" for k in (1, 2)]
    stale = [f"unet/{stem}-0000{k}-of-00003{suffix}" for k in (1, 2, 3)]
    index = f"unet/{stem}{suffix}.index{mark}.json"
    (tmp_path / "unet").mkdir()
    weight_map = {str(k): shard.rpartition("/")[2] for k, shard in enumerate([*shards, shards[0]])}
    (tmp_path / index).write_text(json.dumps({"weight_map": weight_map}))
    names = [*SMALL, PLAIN[0], PLAIN[2], *shards, *stale, index]
    expected = sorted([*SMALL, PLAIN[0], PLAIN[2], *shards, index])
    assert chosen(names, precision, lambda name: tmp_path / name) == expected

    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": f"../vae/x{suffix}"}}))
    with pytest.raises(CheckpointError, match=r"names '\.\./vae/x"):
        chosen(names, precision, lambda name: tmp_path / name)


def test_a_part_without_weights_is_told_before_any_are_fetched():
    with pytest.raises(CheckpointError, match=r"^unet/ holds only .*fp16.safetensors: export with --precision fp16$"):
        chosen([*SMALL, PLAIN[0], HALF[1], PLAIN[2]])
    with pytest.raises(CheckpointError, match=r"^vae/ holds no weights: expected diffusion_pytorch_model"):
        chosen([*SMALL, *PLAIN[:2]])


def test_an_unknown_pipeline_costs_nothing():
    assert sorted(chosen([*SMALL, *PLAIN], index=INDEX | {"_class_name": "Unheard"})) == SMALL[:3]


def test_single_files_are_named():
    message = str(no_checkpoint("org/name", ["README.md", "b.ckpt", "a.safetensors", "unet/c.safetensors"]))
    assert "run hf download org/name a.safetensors --local-dir . and export that file" in message
    assert "there are: a.safetensors, b.ckpt" in message
    assert "it has no model_index.json" in str(no_checkpoint("org/name", ["README.md", "unet/c.safetensors"]))


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(InvalidArgument, match="only a model on the hub"):
        exporters.export(tmp_path / "in", tmp_path / "out", revision="main")


def test_a_page_may_be_edited(tmp_path):
    """On the hub people do: it is in no manifest."""
    for name in ("README.md", "LICENSE", "diffrt.json", "unet/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    assert list(file_entries(tmp_path)) == ["LICENSE", "unet/README.md"]


def test_export_from_the_hub(tmp_path):
    """The cache is a folder of links to blobs: the bundle's weights are the blobs, and nothing there is written."""
    source = write_mini(tmp_path / "checkpoint")
    files = read_folder(source)
    strangers = {"v1.ckpt": b"x", "unet/model.onnx": b"x", "unet/diffusion_pytorch_model.bin": b"x", "LICENSE": b"Yes."}
    with serving() as hub:
        client = Client(hub, tmp_path / "home")
        hub.publish("org/mini", files | strangers)
        hub.publish("org/single", {"v1.safetensors": b"x"})
        hub.publish("org/unheard", files | {"model_index.json": b'{"_class_name": "Unheard"}'})
        bundle = tmp_path / "bundle"
        expected = (
            (["org/none", bundle], "no model on"),
            (["org/single", bundle], "hf download org/single v1.safetensors"),
            (["org/mini", bundle, "--revision", "nope"], "no revision 'nope'"),
            (["org/mini", tmp_path / "no" / "bundle"], "does not exist"),
            (["org/mini", source], "exists"),
            (["org/unheard", bundle], "pipeline class 'Unheard' cannot be exported"),
        )
        results = client.runs(*(["export", *line] for line, _ in expected))
        for (_, says), (code, out, err) in zip(expected, results, strict=True):
            assert says in one_line(code, out, err.split("\n", 1)[1] if err.startswith("fetching") else err)
        assert hub.sent == ["model_index.json"]
        hub.forget()

        code, _, err = client.run("export", "org/mini", bundle, "--no-verify", "--revision", "main")
        assert code == 0, err
        assert sorted(hub.sent) == sorted([*files, "LICENSE"])
    blobs = {blob.stat().st_ino for blob in client.cache.rglob("models--org--mini/blobs/*")}
    assert not any(path.is_symlink() for path in bundle.rglob("*"))
    for name in Bundle.open(bundle).manifest.files:
        if name.endswith(".safetensors"):
            assert (bundle / name).read_bytes() == files[name]
            assert (bundle / name).stat().st_ino in blobs
    assert (bundle / "LICENSE").read_bytes() == b"Yes."
    for blob in client.cache.rglob("models--org--mini/blobs/*"):
        assert blob.name in (etag("large.bin", blob.read_bytes()), etag("small.txt", blob.read_bytes()))
