"""The model inside the package as a single graph: the same pictures as from its components, by ONNX Runtime alone."""

import json
import shutil
import subprocess
import sys
import threading
import time
import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx_ir.passes.common import NameFixPass

import diffrt
from diffrt.bundle import Bundle
from diffrt.cli import run
from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import ExportError, InvalidArgument
from diffrt.pipeline import BUNDLES, SCHEDULER_CONFIG
from diffrt.schedulers import from_config
from diffrt.tables.arrays import single_inputs
from exporters import single
from exporters.nodes import INT64, STRING
from exporters.single import writing
from exporters.single.assembly import Assembly
from exporters.single.parts import load
from exporters.single.tokenizer import DOMAIN, Vocabulary, tokenized
from tests.runtime.test_tokenizer import TEXTS

PROMPTS, SEEDS = ["a red apple", "a smiling cat", "a house in the snow"], [7, 2**40, -5]
LIGHT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "diffusers", "onnxscript"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
from diffrt.cli import run
sys.exit(run(["export", "emoji", sys.argv[1], "--form", "single"]))
"""
ALONE = """
import json, sys
import numpy as np, onnxruntime
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffrt", "exporters", "tokenizers", "safetensors"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options)
known = session.get_modelmeta().custom_metadata_map
images, latents, slots = session.run(None, {
    "input_ids": np.load(sys.argv[2]),
    "negative_ids": np.array([[int(known["start_token"])] + [int(known["end_token"])] * (int(known["tokens"]) - 1)]),
    "seed": np.array(json.loads(sys.argv[3])),
    "guidance_scale": np.array(3.0, np.float32),
    "num_inference_steps": np.array(4),
})
np.save(sys.argv[4], images)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exported where PyTorch cannot be imported."""
    dest = tmp_path_factory.mktemp("single") / "emoji"
    done = subprocess.run([sys.executable, "-c", LIGHT, dest], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "writing pipeline.onnx" in done.stderr
    return dest


def opened(file, *libraries):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for library in libraries:
        options.register_custom_ops_library(library)
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session(folder):
    return opened(folder / "pipeline.onnx")


@pytest.fixture(scope="module")
def pipe():
    return diffrt.load("emoji")


@pytest.fixture(scope="module")
def tokenizer(pipe):
    return Tokenizer.from_bundle(pipe.bundle.root, pipe.bundle.manifest)


def feeds(tokenizer, prompts=PROMPTS[0], seeds=SEEDS[0], guidance=3.0, steps=4, **others):
    prompts, seeds = ([each] if not isinstance(each, list) else each for each in (prompts, seeds))
    return {
        "input_ids": tokenizer(prompts).ids, "negative_ids": tokenizer([""]).ids, "seed": np.array(seeds),
        "guidance_scale": np.array(guidance, np.float32), "num_inference_steps": np.array(steps),
    } | {name: np.asarray(value) for name, value in others.items()}  # fmt: skip


def by_components(pipe, prompts, seeds, guidance=3.0, steps=4):
    out = pipe(prompts, seed=seeds, rng="philox", guidance_scale=guidance, num_inference_steps=steps)
    return np.stack([np.asarray(image) for image in out.images])


def apart(images, reference):
    assert images.shape == reference.shape and images.dtype == np.uint8
    return np.abs(images.astype(int) - reference).max()


@pytest.fixture(scope="module")
def expected(pipe):
    return by_components(pipe, PROMPTS, SEEDS)


# --- pictures -------------------------------------------------------------------------------------------------------


def test_the_pictures_of_the_components(session, pipe, tokenizer, expected):
    """Three prompts and seeds at once; each alone is the same picture; and without guidance."""
    images, *_ = session.run(None, feeds(tokenizer, PROMPTS, SEEDS))
    assert apart(images, expected) <= 1
    alone, *_ = session.run(None, feeds(tokenizer, PROMPTS[1], SEEDS[1]))
    assert apart(alone, images[1:2]) <= 1
    images, *_ = session.run(None, feeds(tokenizer, guidance=1.0, steps=8))
    assert apart(images, by_components(pipe, PROMPTS[0], SEEDS[:1], 1.0, 8)) <= 1


def test_onnxruntime_is_all_that_it_takes(folder, tokenizer, expected, tmp_path):
    """And what else a host must know stands in the file."""
    np.save(tmp_path / "ids.npy", tokenizer(PROMPTS).ids)
    arguments = [folder / "pipeline.onnx", tmp_path / "ids.npy", json.dumps(SEEDS), tmp_path / "out.npy"]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    assert apart(np.load(tmp_path / "out.npy"), expected) <= 1


def test_what_is_said_of_it(folder, session, pipe):
    record = json.loads((folder / "pipeline.json").read_text())
    said = session.get_modelmeta().custom_metadata_map
    assert (record["height"], record["width"], record["tokens"], record["steps"]) == (128, 128, 32, [1, 4, 8, 20])
    assert (said["steps"], said["evaluations"], said["latents"]) == ("1,4,8,20", "1,4,8,20", "4,16,16")
    assert record["scheduler"] == pipe.bundle.manifest.defaults.scheduler == said["scheduler"]
    given = {i.name: tuple(i.shape) for i in session.get_inputs()}
    assert given == {name: tuple(i["shape"]) for name, i in record["inputs"].items() if i["required"]}
    assert list(given) == ["input_ids", "negative_ids", "seed", "guidance_scale", "num_inference_steps"]
    optional = {i.name for i in session.get_overridable_initializers()}
    assert optional == {name for name, i in record["inputs"].items() if not i["required"]}
    assert [o.name for o in session.get_outputs()] == list(record["outputs"]) == ["images", "latents", "slots"]
    for name in ("vocab.json", "merges.txt"):
        assert (folder / name).read_bytes() == (pipe.bundle.root / "tokenizer" / name).read_bytes()


def test_weights_stand_where_they_are_used(folder):
    """In the loop's body, whose shapes are numbers but for the batch, and where the picture is decoded."""
    model = onnx.load(folder / "pipeline.onnx")
    onnx.checker.check_model(model)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(a.g for a in scan.attribute if a.name == "body")
    assert {each.name.partition("/")[0] for each in body.initializer} == {"unet"}
    assert [node.input[0] for node in computed(body)] == [body.input[0].name]  # the slots
    last = next(node for node in model.graph.node if node.op_type == "If")
    decode = next(a.g for a in last.attribute if a.name == "then_branch")
    assert {each.name.partition("/")[0] for each in decode.initializer} == {"vae_decoder"}
    assert not computed(decode)


def computed(graph):
    """What asks for a shape while it runs, and not for the batch alone."""
    asked = [(node, {a.name: a.i for a in node.attribute}) for node in graph.node if node.op_type == "Shape"]
    return [node for node, of in asked if (of.get("start", 0), of.get("end")) != (0, 1)]


# --- progress and cancelling ----------------------------------------------------------------------------------------


def test_a_run_in_segments(session, pipe, tokenizer):
    """Bit for bit the whole run; before its end there are previews, of what the run time's own steps show."""
    images, latents, slots = session.run(None, feeds(tokenizer, PROMPTS[:2], SEEDS[:2]))
    before, previews = np.zeros((1, 1, 4, 16, 16), np.float32), []
    for start in range(4):
        segment = feeds(tokenizer, PROMPTS[:2], SEEDS[:2], start=start, count=1, slots_before=before)
        preview, last, before = session.run(None, segment)
        previews.append(preview)
    assert np.array_equal(last, latents) and np.array_equal(before, slots) and np.array_equal(preview, images)
    steps = pipe.stream(PROMPTS[:2], seed=SEEDS[:2], rng="philox")
    for step, shown in zip(steps, previews[:3], strict=False):
        matrix, bias = (np.array(each, np.float32) for each in step.colours)
        small = torch.from_numpy(np.einsum("nchw,cd->ndhw", step.denoised, matrix) + bias[:, None, None])
        large = torch.nn.functional.interpolate(small, size=128, mode="bilinear").permute(0, 2, 3, 1)
        assert np.abs((large * 127.5 + 127.5).clip(0, 255).numpy() - shown).max() < 2


def test_cancelling(session, tokenizer):
    """RunOptions.terminate, from another thread, ends a run between two nodes."""
    options = ort.RunOptions()
    options.log_severity_level = 4
    timer = threading.Timer(0.5, setattr, (options, "terminate", True))
    timer.start()
    began = time.perf_counter()
    with pytest.raises(Exception, match="terminate flag"):
        session.run(None, feeds(tokenizer, PROMPTS, SEEDS, steps=20), options)
    assert time.perf_counter() - began < 3


# --- forms ----------------------------------------------------------------------------------------------------------


def operators(graph):
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from operators(attribute.g)


def test_unrolled(tmp_path, session, tokenizer):
    """No control flow, the same bits. Here with inputs that must all be given."""
    command = ["export", "emoji", str(tmp_path / "u"), "--form", "single", "--loop", "unrolled:1", "--inputs", "all"]
    assert run(command) == 0
    found = Counter(operators(onnx.load(tmp_path / "u" / "pipeline.onnx").graph))
    assert not {"Scan", "Loop", "If", "NonZero", "Compress"} & set(found)
    unrolled = opened(tmp_path / "u" / "pipeline.onnx")
    assert not unrolled.get_overridable_initializers()
    given = feeds(tokenizer, steps=1)
    config = json.loads((BUNDLES["emoji"] / SCHEDULER_CONFIG).read_text())
    table = single_inputs(from_config(config).table(1)) | {"noise": np.zeros((1, 1, 4, 16, 16), np.float32)}
    del given["num_inference_steps"], table["table_steps"]
    assert set(given | table) == {i.name for i in unrolled.get_inputs()}
    assert np.array_equal(unrolled.run(None, given | table)[0], session.run(None, feeds(tokenizer, steps=1))[0])


def test_weights_beside_a_graph_that_would_be_too_large(tmp_path, monkeypatch, session, tokenizer):
    monkeypatch.setattr(writing, "LARGEST", 1 << 20)
    dest = single.export("emoji", tmp_path / "large", steps=[1])
    sizes = {file.name: file.stat().st_size for file in dest.iterdir()}
    assert sizes["pipeline.onnx"] < 6e6 and sizes["pipeline.onnx.data"] > 15e6
    images, *_ = opened(dest / "pipeline.onnx").run(None, feeds(tokenizer, steps=1))
    assert np.array_equal(images, session.run(None, feeds(tokenizer, steps=1))[0])


def test_prompts_as_text(tmp_path, pipe, tokenizer):
    """onnxruntime-extensions' tokenizer, mended: all but special tokens that are written out, and NUL."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    dest = single.export("emoji", tmp_path / "op", tokenizer="op", steps=[1])
    with pytest.raises(Exception, match=r"ai\.onnx\.contrib:.* is not a registered function"):
        opened(dest / "pipeline.onnx")
    graph = opened(dest / "pipeline.onnx", extensions.get_library_path())
    assert [i.name for i in graph.get_inputs()][:2] == ["prompt", "negative_prompt"]
    given = feeds(tokenizer, steps=1, prompts=[PROMPTS[0], "12 cats, it's 5pm"], seeds=[7, 8])
    del given["input_ids"], given["negative_ids"]
    given |= {"prompt": np.array([PROMPTS[0], "12 cats, it's 5pm"], object), "negative_prompt": np.array([""], object)}
    assert apart(graph.run(None, given)[0], by_components(pipe, given["prompt"].tolist(), [7, 8], steps=1)) <= 1


def test_the_ids_of_text(tokenizer):
    extensions = pytest.importorskip("onnxruntime_extensions")
    main = Assembly("ids")
    vocabulary = Vocabulary.read(BUNDLES["emoji"], {"folder": "tokenizer", "max_length": 32, "pad": "<|endoftext|>"})
    ids = tokenized(main, main.input("text", STRING, ["n"]), vocabulary)
    main.output("ids", ids, INT64, ["n", 32])
    main.graph.opset_imports.update({"": 23, DOMAIN: 1})
    model = ir.Model(main.graph, ir_version=10)
    NameFixPass()(model)
    graph = opened(ir.serde.serialize_model(model).SerializeToString(), extensions.get_library_path())
    texts = [text for text in TEXTS if "\0" not in text and "<|" not in text]
    texts = [unicodedata.normalize("NFC", text) for text in (*texts, "it's 's", "5's 5 's 3'll", "a1b2")]
    assert np.array_equal(graph.run(None, {"text": np.array(texts, object)})[0], tokenizer(texts).ids)
    special = np.array(["a <|startoftext|> in the <|EndOfText|> middle"], object)
    assert graph.run(None, {"text": special})[0][0, 1] == tokenizer(["a"]).ids[0, 1]  # read as words; no crash
    with pytest.raises(InvalidArgument, match="pads prompts with a token that is also a word"):
        tokenized(main, ids, replace(vocabulary, pad=0))


def test_a_vocabulary_in_one_file(sd2_bundle, tmp_path):
    """tokenizer.json alone: hosts get vocab.json and merges.txt all the same."""
    entry = Bundle.open(sd2_bundle).manifest.tokenizers["text_encoder"]
    assert not (sd2_bundle / "tokenizer" / "merges.txt").exists()
    found = Vocabulary.read(sd2_bundle, entry)
    (tmp_path / "vocab.json").write_text(found.vocab, "utf-8")
    (tmp_path / "merges.txt").write_text(found.merges, "utf-8")
    whole, parts = (Tokenizer(at, entry["max_length"], entry["pad"]) for at in (sd2_bundle / "tokenizer", tmp_path))
    assert np.array_equal(whole(TEXTS).ids, parts(TEXTS).ids)
    assert whole([""]).ids[0, :3].tolist() == [found.start, found.end, found.pad]


def test_another_size_sampler_and_step_count(sd1_bundle, tmp_path):
    """Equal to the last digits, as here the components compute in fp32 from end to end. One that takes fresh noise in
    every step; and what is not square is that way round."""
    size = {"height": 16, "width": 48}
    dest = single.export(sd1_bundle, tmp_path / "sd1", size=(16, 48), steps=[5], scheduler="euler-a", inputs="segments")
    graph, pipe = opened(dest / "pipeline.onnx"), diffrt.load(sd1_bundle)
    pipe.scheduler = from_config(pipe.scheduler.config, "euler-a")
    out = pipe(PROMPTS, seed=SEEDS, rng="philox", guidance_scale=4.0, num_inference_steps=5, **size)
    tokens = Tokenizer.from_bundle(sd1_bundle, pipe.bundle.manifest)
    nothing = np.zeros((1, 1, *out.latents.shape[1:]), np.float32)
    given = feeds(tokens, PROMPTS, SEEDS, 4.0, 5, start=0, count=9, slots_before=nothing)
    assert set(given) == {i.name for i in graph.get_inputs()}
    images, latents, _ = graph.run(None, given)
    assert np.abs(latents - out.latents).max() < 1e-4 * np.abs(out.latents).max()
    assert apart(images, np.stack([np.asarray(image) for image in out.images])) <= 1
    preview, *_ = graph.run(None, given | {"count": np.array(2)})
    assert preview.shape == images.shape


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "height and width must be multiples of 8": ["--size", "100x128"],
    "allowed: 1 to 1000": ["--steps", "4,2000"],
    "give whole numbers, such as 1,4,8,20": ["--steps", "4;8"],
    "from 1 to 8; got [9]": ["--loop", "unrolled:9"],
    "leave out --steps": ["--loop", "unrolled:4", "--steps", "4"],
    "give scan, or unrolled": ["--loop", "while"],
    "inputs 'some' is unknown here": ["--inputs", "some"],
    "tokenizer 'opp' is unknown here; did you mean 'op'": ["--tokenizer", "opp"],
    "attention 'whole' is unknown here": ["--attention", "whole"],
    "did you mean 'euler'": ["--scheduler", "eulr"],
    "emoji is a bundle": ["--precision", "fp16"],
    "--copy-weights belongs to --form components": ["--copy-weights"],
}


@pytest.mark.parametrize("says", REFUSED)
def test_bad_options(says, tmp_path, capsys):
    """One line, and nothing is left."""
    assert run(["export", "emoji", str(tmp_path / "out"), "--form", "single", *REFUSED[says]]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in printed
    assert list(tmp_path.iterdir()) == []


def test_bad_sources_and_targets(folder, tmp_path, capsys):
    def fails(source, dest, says, *options):
        assert run(["export", str(source), str(dest), "--form", "single", *options]) == 2
        assert says in capsys.readouterr().err

    fails(folder, tmp_path / "out", "has no model_index.json")  # a single graph is no source
    fails(tmp_path / "none", tmp_path / "out", "is not a folder")
    fails("emoji", tmp_path / "none" / "out", "does not exist; create it first")
    fails("emoji", folder, "or replace such an export with --force")
    (tmp_path / "mine").mkdir()
    fails("emoji", tmp_path / "mine", "exists; choose another folder", "--force")
    damaged = shutil.copytree(BUNDLES["emoji"], tmp_path / "damaged")
    (damaged / "unet" / "model.fp16.onnx").write_bytes(b"no graph")
    fails(damaged, tmp_path / "out", "the manifest says")
    assert run(["export", "emoji", str(tmp_path / "out"), "--steps", "4"]) == 2
    assert "--steps belongs to --form single: leave it out for components" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["damaged", "mine"]


def test_a_bundle_without_portable_graphs():
    with pytest.raises(ExportError, match="has no portable graph of the text_encoder: export it with --attention auto"):
        load(without_portable(Bundle.open(BUNDLES["emoji"])), "text_encoder", ["last_hidden_state"], "ort", {})


def without_portable(bundle):
    spec = bundle.component("text_encoder")
    variants = tuple(replace(variant, attention="ort") for variant in spec.variants)
    components = {**bundle.manifest.components, "text_encoder": replace(spec, variants=variants)}
    return replace(bundle, manifest=replace(bundle.manifest, components=components))
