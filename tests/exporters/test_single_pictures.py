"""Single graphs that begin with a picture: what the run time draws with the same seed, noise in the same order.

Over the small checkpoints, which compute in fp32 from end to end: equal to the last digits, and pictures within 1/255.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import NameFixPass
from PIL import Image

import diffrt
from diffrt.cli import run
from diffrt.components.tokenizer import Tokenizer
from diffrt.noise import generators
from diffrt.schedulers import SCHEDULERS, from_config
from diffrt.tables.arrays import single_inputs
from exporters import single
from exporters.nodes import DOUBLE, INT64
from exporters.single.assembly import Assembly
from exporters.single.rows import last_steps

from .test_image_tasks import mask, picture

SIZE, STEPS = (16, 48), [4, 6]
IMAGE, MASK = np.asarray(picture(*SIZE)), np.array(mask("part", *SIZE))
MASK[0, :16:8] = 127, 128  # the last that is kept, and the first that is painted anew
OTHERS = np.asarray(picture(*SIZE, seed=1)), 255 - MASK
PROMPTS, SEEDS = ["a red apple", "the apple"], [7, -5]
GIVEN = {"steps": 6, "strength": 0.7, "guidance": 4.0}


class Case(NamedTuple):
    session: ort.InferenceSession
    folder: Path
    pipe: diffrt.Pipeline
    masked: bool

    def by_graph(
        self, prompts=PROMPTS, seeds=SEEDS, images=IMAGE, masks=MASK, steps=6, strength=0.7, guidance=4.0, **more
    ):
        """Outputs by name. Pictures are [H,W,...], for all, or several."""
        ids = Tokenizer.from_bundle(self.pipe.bundle.root, self.pipe.bundle.manifest)
        feeds = {
            "input_ids": ids(prompts).ids, "negative_ids": ids([""]).ids, "seed": np.array(seeds),
            "image": images if images.ndim == 4 else images[None], "strength": np.array(strength),
            "guidance_scale": np.array(guidance, np.float32), "num_inference_steps": np.array(steps),
        }  # fmt: skip
        feeds |= {"mask": masks if masks.ndim == 3 else masks[None]} if self.masked else {}
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feeds | more), strict=True))

    def by_components(
        self, prompts=PROMPTS, seeds=SEEDS, images=IMAGE, masks=MASK, steps=6, strength=0.7, guidance=4.0
    ):
        images, masks = (each if each.ndim == n else each[None] for each, n in ((images, 4), (masks, 3)))
        given = {"image": [Image.fromarray(each) for each in images], "strength": strength, "seed": seeds}
        given |= {"mask_image": [Image.fromarray(each) for each in masks]} if self.masked else {}
        return self.pipe(prompts, rng="philox", num_inference_steps=steps, guidance_scale=guidance, **given)

    def check(self, graph=None, components=None, **given):
        """Both make the same picture, and some picture."""
        ours, reference = self.by_graph(**given, **(graph or {})), self.by_components(**given)
        scale = np.abs(reference.latents).max()
        assert np.abs(ours["latents"] - reference.latents).max() < 1e-4 * scale
        expected = np.stack([np.asarray(image) for image in reference.images])
        assert ours["images"].shape == expected.shape
        assert np.abs(ours["images"].astype(int) - expected).max() <= 1
        return ours


KINDS = {"image": ("sd1", "image-to-image"), "blend": ("sd1", "inpaint"), "told": ("inpaint", "inpaint")}


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    kind, task = KINDS[request.param]
    bundle, dest = request.getfixturevalue(f"{kind}_folder") / "bundle", tmp_path_factory.mktemp("single") / "out"
    command = ["export", str(bundle), str(dest), "--form", "single", "--task", task, "--size", "16x48"]
    assert run([*command, "--steps", ",".join(map(str, STEPS))]) == 0
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(dest / "pipeline.onnx", options, providers=["CPUExecutionProvider"])
    return Case(session, dest, diffrt.load(bundle), task == "inpaint")


@pytest.mark.parametrize(
    ("steps", "strength"), [(4, 1.0), (4, 0.25), (6, 1.0), (6, 0.999), (6, 0.7), (6, 0.4), (6, 0.17)]
)
def test_the_pictures_of_the_components(case, steps, strength):
    case.check(steps=steps, strength=strength)


def test_a_picture_for_each_prompt(case):
    """And each alone is the same; unguided as well."""
    given = {"images": np.stack([IMAGE, OTHERS[0]]), "masks": np.stack([MASK, OTHERS[1]])}
    both = case.check(**given)["images"]
    alone = case.by_graph(PROMPTS[1:], SEEDS[1:], *OTHERS)["images"]
    assert np.abs(alone.astype(int) - both[1:]).max() <= 1
    assert np.abs(both[0].astype(int) - both[1]).max() > 20
    case.check(guidance=1.0, **given)


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "HeunDiscrete", "UniPCMultistep", "LMSDiscrete", "DDPM"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_other_samplers(case, name, strength):
    """Fed as tables, of a number of steps that none is baked in for; with fresh noise, two stages, memory, or a memory
    that a late start changes."""
    own = case.pipe.scheduler
    case.pipe.scheduler = SCHEDULERS[f"{name}Scheduler"].from_config({**own.config, "clip_sample": False})
    last = int(5 * strength)
    table = single_inputs(case.pipe.scheduler.table(5, skip=5 - last), (last, 5))
    try:
        case.check(table, steps=5, strength=strength)
    finally:
        case.pipe.scheduler = own


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_segments_make_the_run(case, strength):
    """Bit for bit, in as many evaluations as the file says."""
    record = json.loads((case.folder / "pipeline.json").read_text())
    evaluations = record["evaluations"][record["steps"].index(6)][int(6 * strength) - 1]
    whole = case.by_graph(strength=strength)
    slots = np.zeros((1, 1, *record["latents"]), np.float32)
    for start in range(evaluations):
        more = {"start": np.array(start), "count": np.array(1), "slots_before": slots}
        part = case.by_graph(strength=strength, **more)
        slots = part["slots"]
    assert all(np.array_equal(part[name], whole[name]) for name in whole)
    with pytest.raises(Exception, match="start must be from 0 to the last evaluation"):
        case.by_graph(strength=strength, start=np.array(evaluations))


def test_where_the_encoder_stands(case):
    """Where only the beginning is made of the picture, in a branch that later segments do not take."""
    graph = onnx.load(case.folder / "pipeline.onnx").graph
    branches = [a.g for node in graph.node if node.op_type == "If" for a in node.attribute if a.name == "else_branch"]
    holding = [each for each in (graph, *branches) if any(w.name.startswith("vae_encoder/") for w in each.initializer)]
    assert len(holding) == 1 and (holding[0] is graph) == case.masked


def test_what_later_segments_read_of_a_picture(case):
    """What a mask leaves of it; where it is only begun with, nothing."""
    first = case.by_graph(count=np.array(2))
    more = {"start": np.array(2), "slots_before": first["slots"]}
    alike = [case.by_graph(images=image, **more)["latents"] for image in (IMAGE, OTHERS[0])]
    assert np.array_equal(*alike) == (not case.masked)


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_noise_in_the_place_of_the_seeds(case, strength):
    """In the order of a seed's draws."""
    streams = generators(SEEDS, "philox")
    channels = json.loads((case.folder / "pipeline.json").read_text())["latents"]
    drawn = np.stack([np.stack([stream.randn(channels) for stream in streams]) for _ in range(12)])
    expected = case.by_graph(strength=strength)["latents"]
    ours = case.by_graph(strength=strength, seeds=[0, 0], noise=drawn)["latents"]
    assert np.array_equal(ours, expected)
    assert not np.array_equal(case.by_graph(strength=strength, seeds=[0, 0])["latents"], expected)


REFUSED = {
    "num_inference_steps must be one of 4, 6": {"steps": 5},
    "strength must be at most 1, and leave at least one of num_inference_steps": {"strength": 0.16},
    "strength must be at most 1": {"strength": 1.01},
    "must be at most 1, and leave": {"strength": -0.5},
    "strength must be at most": {"strength": float("nan")},
    "image must have one picture, or as many as input_ids": {"images": np.stack([IMAGE] * 3)},
    "image must have one picture": {"images": np.stack([IMAGE] * 2), "prompts": PROMPTS[:1], "seeds": [1]},
    "invalid dimensions for input: image": {"images": IMAGE[:8]},
    r"Actual: \(tensor\(float\)\) , expected: \(tensor\(double\)\)": {"strength": np.float32(0.5)},
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(case, says):
    with pytest.raises(Exception, match=says):
        case.by_graph(**REFUSED[says])


def test_masks_and_tables_that_are_refused(case):
    table = single_inputs(from_config(case.pipe.scheduler.config).table(5, skip=2), (3, 5))
    with pytest.raises(Exception, match="table_run must hold num_inference_steps \\* strength, rounded down"):
        case.by_graph(steps=5, strength=0.8, **table)
    if case.masked:
        with pytest.raises(Exception, match="mask must have one picture, or as many as input_ids"):
            case.by_graph(masks=np.stack([MASK] * 3))


def test_what_is_said_of_it(case):
    record = json.loads((case.folder / "pipeline.json").read_text())
    said = case.session.get_modelmeta().custom_metadata_map
    task = "inpaint" if case.masked else "image_to_image"
    assert (record["task"], said["task"]) == (task, task)
    assert (
        record["default_strength"] == {"inpaint": 1.0, "image_to_image": 0.8}[task] == float(said["default_strength"])
    )
    assert said["steps"] == "4,6" and [len(each) for each in record["evaluations"]] == STEPS
    assert [[int(n) for n in each.split(",")] for each in said["evaluations"].split(";")] == record["evaluations"]
    plain = ["input_ids", "negative_ids", "seed", "guidance_scale", "num_inference_steps"]
    begins = ["image", "mask", "strength"] if case.masked else ["image", "strength"]
    assert [name for name, each in record["inputs"].items() if each["required"]] == plain + begins
    assert record["inputs"]["image"] == {"dtype": "uint8", "shape": ["pictures", *SIZE, 3], "required": True}
    assert record["inputs"]["strength"] == {"dtype": "float64", "shape": [], "required": True}


def test_how_many_steps_a_strength_leaves():
    """Every k/n of up to a hundred steps, every percentage of them, and the neighbours of both."""
    main = Assembly("last")
    steps, strength = main.input("steps", INT64, []), main.input("strength", DOUBLE, [])
    table = {"table_steps": main.constant(np.arange(1, 101))}
    main.output("ran", last_steps(main, table, steps, strength, [100]), INT64, [])
    main.graph.opset_imports[""] = 23
    model = ir.Model(main.graph, ir_version=10)
    NameFixPass()(model)
    graph = ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    rounded = 0
    for n in range(1, 101):
        for share in {k / n for k in range(1, n + 1)} | {k / 100 for k in range(1, 101)}:
            for near in (np.nextafter(share, 0), share, np.nextafter(share, 0.5)):
                if (k := int(n * near)) > 0:
                    assert graph.run(None, {"steps": np.array(n), "strength": np.array(near)})[0] == k
                    rounded += near == share and k != n * round(share, 2) and abs(n * share - round(n * share)) < 1e-9
    assert rounded


@pytest.mark.parametrize("task", ["image-to-image", "inpaint"])
def test_the_model_inside_the_package(task, tmp_path):
    """Whose components round to fp16 where the graph does not."""
    dest = single.export("emoji", tmp_path / "out", task=task.replace("-", "_"), steps=[4, 8], inputs="segments")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(dest / "pipeline.onnx", options)
    case = Case(session, dest, diffrt.load("emoji"), task == "inpaint")
    assert {"start", "count", "slots_before"} <= {each.name for each in session.get_inputs()}
    big = {"images": np.asarray(picture(128, 128)), "masks": np.asarray(mask("part", 128, 128))}
    more = {"start": np.array(0), "count": np.array(99), "slots_before": np.zeros((1, 1, 4, 16, 16), np.float32)}
    for steps, strength in ((4, 0.8), (8, 0.5)):
        images = case.by_graph(steps=steps, strength=strength, **big, **more)["images"]
        expected = case.by_components(steps=steps, strength=strength, **big).images
        assert np.abs(images.astype(int) - np.stack([np.asarray(each) for each in expected])).max() <= 1


def test_options_that_are_refused(inpaint_folder, tmp_path, capsys):
    def fails(says, source, *options):
        assert run(["export", str(source), str(tmp_path / "out"), *options]) == 2
        assert says in capsys.readouterr().err

    form = ("--form", "single")
    fails(
        "task 'image_to_imag' is unknown here; did you mean 'image_to_image'", "emoji", *form, "--task", "image-to-imag"
    )
    fails("an unrolled graph draws from text alone", "emoji", *form, "--task", "inpaint", "--loop", "unrolled:4")
    fails("--task belongs to --form single: leave it out for components", "emoji", "--task", "inpaint")
    fails("does not do text-to-image: give --task inpaint", inpaint_folder / "bundle", *form)
    assert list(tmp_path.iterdir()) == []
