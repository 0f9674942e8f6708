"""Folders as they were in 2022: pickled weights, configs without later keys, other pipeline classes."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import exporters
from exporters import exporting
from exporters.checkpoint import open_checkpoint
from exporters.families import FAMILIES
from exporters.families.stable_diffusion import build_text_encoder
from exporters.sources import opened
from exporters.trace import check_fit
from exporters.weights import open_weights

from .mini import contents, edit

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def pickle(folder, part, mark="", keep=False, dtype=None):
    """A part's safetensors as the .bin of its time; one tensor transposed, and two sharing their memory."""
    file = folder / part / f"{PARTS[part]}.safetensors"
    tensors = {n: t.to(dtype or t.dtype) for n, t in load_file(file).items()}
    matrix = next(n for n, t in tensors.items() if t.ndim == 2)
    tensors[matrix] = tensors[matrix].T.contiguous().T
    one, other, *_ = (n for n, t in tensors.items() if t.ndim == 1)
    pair = torch.cat([tensors[one], tensors[other]])
    tensors[one], tensors[other] = pair[: len(tensors[one])], pair[len(tensors[one]) :]
    stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
    torch.save(tensors, folder / part / f"{stem}{mark}.bin")
    if not keep:
        file.unlink()


@pytest.fixture
def untraced(monkeypatch):
    """Exports without graphs, which take most of the time."""
    for name in ("trace", "attach", "write_tiles"):
        monkeypatch.setattr(exporting, name, lambda *_: None)
    monkeypatch.setattr(exporting, "write_graphs", lambda *_: [])
    monkeypatch.setattr(exporting, "fit_preview", lambda *_: {"matrix": [], "bias": []})


@pytest.mark.parametrize("parts", [("unet",), ("unet", "vae", "text_encoder")], ids=len)
@pytest.mark.parametrize("copy", [False, True])
def test_bin(pristine, checkpoint, untraced, parts, copy):
    """The bundle's safetensors hold what the pickles did; other weights are links to the source's, or copies."""
    for part in parts:
        pickle(checkpoint, part)
    (checkpoint / "safety_checker").mkdir()
    (checkpoint / "safety_checker" / "pytorch_model.bin").write_bytes(b"never read")
    before, lines = contents(checkpoint), []
    bundle = exporters.export(checkpoint, checkpoint.parent / "bundle", verify=False, copy_weights=copy,
                              progress=lines.append)  # fmt: skip
    assert contents(checkpoint) == before
    assert sorted(f.name for f in checkpoint.parent.iterdir()) == ["bundle", "checkpoint"]
    converted = [line.rpartition(" ")[2] for line in lines if "converting" in line]
    assert converted == [part for part in ("text_encoder", "unet", "vae") if part in parts]
    assert not list(bundle.rglob("*.bin"))
    for part, stem in PARTS.items():
        file = bundle / part / f"{stem}.safetensors"
        expected = load_file(pristine / part / file.name)
        got = load_file(file)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[n], expected[n]) for n in got)
        assert file.stat().st_nlink == (1 if copy or part in parts else 2)
    StableDiffusionPipeline.from_pretrained(bundle)


@pytest.mark.parametrize(
    ("precision", "marks", "taken"),
    [
        ("fp32", [""], "diffusion_pytorch_model.safetensors"),
        ("fp16", [".fp16"], "diffusion_pytorch_model.fp16.safetensors"),
        ("fp16", ["", ".fp16"], "diffusion_pytorch_model.fp16.safetensors"),
        ("fp16", [""], "diffusion_pytorch_model.safetensors"),
    ],
)
def test_bin_variants(checkpoint, precision, marks, taken):
    for mark in marks:
        pickle(checkpoint, "unet", mark, keep=True, dtype=torch.float16 if precision == "fp16" else None)
    (checkpoint / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with opened(checkpoint, checkpoint.with_name("x"), precision, None, False, lambda line: None) as source:
        source.fill(lambda line: None)
        assert [f.name for f in source.converted] == [taken]
        assert [f.name for f in open_weights(source.root / "unet", precision).files] == [taken]


def test_safetensors_are_preferred(checkpoint):
    (checkpoint / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    with opened(checkpoint, checkpoint.with_name("x"), "fp32", None, False, lambda line: None) as source:
        assert source.root == checkpoint
        assert not source.converted


def test_index_of_early_2024(tmp_path):
    """diffusers 0.28 wrote the variant's mark before .index.json."""
    names = {n: f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i, n in enumerate("ab", 1)}
    for name, file in names.items():
        save_file({name: torch.zeros(3).half()}, tmp_path / file)
    index = tmp_path / "diffusion_pytorch_model.safetensors.fp16.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    weights = open_weights(tmp_path, "fp16")
    assert weights.index == index
    weights.check({"a": (3,), "b": (3,)})


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.name == "stable-diffusion"])
def test_pipeline_classes(checkpoint, name):
    edit(checkpoint / "model_index.json", _class_name=name)
    assert open_checkpoint(checkpoint).family.name == "stable-diffusion"


def test_config_of_both_halves_of_clip(checkpoint):
    """As transformers' CLIPTextModel reads one."""
    file = checkpoint / "text_encoder" / "config.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps({"model_type": "clip", "text_config": words, "vision_config": {}, "projection_dim": 1}))
    found = open_checkpoint(checkpoint)
    component = next(c for c in found.components if c.name == "text_encoder")
    check_fit(component, found.configs["text_encoder"], found.weights("text_encoder", "fp32"))
    theirs = StableDiffusionPipeline.from_pretrained(checkpoint).text_encoder.config
    ours = build_text_encoder(found.configs["text_encoder"]).config
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "vocab_size"):
        assert getattr(ours, key) == getattr(theirs, key) == words[key]


OLD = {  # the keys that the configs of Stable Diffusion 1.4's first release have
    "unet": "act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim down_block_types"
    " downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps"
    " norm_num_groups out_channels sample_size up_block_types",
    "vae": "act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block out_channels"
    " sample_size up_block_types norm_num_groups",
}


def test_configs_of_2022(checkpoint):
    """Without any later key: the same modules, and Stable Diffusion's scale of latents."""
    before = {part: open_checkpoint(checkpoint).configs[part] for part in OLD}
    for part, keys in OLD.items():
        kept = {k: v for k, v in before[part].items() if k in keys.split()}
        assert len(kept) == len(keys.split())
        (checkpoint / part / "config.json").write_text(json.dumps({"_diffusers_version": "0.2.2", **kept}))
    edit(
        checkpoint / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        requires_safety_checker=False,
    )
    found = open_checkpoint(checkpoint)
    assert found.skipped == ("safety_checker", "feature_extractor")
    for component in found.components:
        config = found.configs[component.part]
        check_fit(component, config, found.weights(component.part, "fp32"))
        if component.part in OLD:
            ours, theirs = component.build(config).config, component.build(before[component.part]).config
            assert ours == theirs
