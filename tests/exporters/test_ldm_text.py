"""Latent diffusion of text against diffusers' LDMTextToImagePipeline: same seed, same steps."""

import json
from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import BertTokenizer

import diffrt
import exporters
from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import CheckpointError
from diffrt.stable_diffusion import tokenizer_entry
from exporters.families.ldm_text import LDM_TEXT
from exporters.models.vq import VQModel
from tests.checkpoints import SCHEDULER, VAE
from tests.conftest import kept
from tests.exporters.test_ldm import VQ
from tests.exporters.test_pictures import assert_same

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "of", "eating", "painting", "squirrel", "burger", "##s", "red",
    "apple", ",", ".", "'", "-", "u", "##ber", "[", "]", "中", "cafe",
]  # fmt: skip
BERT = {
    "vocab_size": len(WORDS), "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 2, "head_dim": 12,
    "d_model": 32,
}  # fmt: skip
UNET = {
    "sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32, "attention_head_dim": 4,
}  # fmt: skip
PROMPT = "A painting of a squirrel eating a burger"


def bert_tokenizer(folder):
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return BertTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        torch.manual_seed(0)
        bert = LDMBertModel(LDMBertConfig(**BERT)).eval()
        for parameter in bert.parameters():  # born near zero, with which a test could not see a mistake
            parameter.data += torch.randn_like(parameter) * 0.1
        pipe = diffusers.LDMTextToImagePipeline(
            vqvae=diffusers.AutoencoderKL(**VAE).eval(),
            bert=bert,
            tokenizer=bert_tokenizer(folder / "words"),
            unet=diffusers.UNet2DConditionModel(**UNET).eval(),
            scheduler=diffusers.DDIMScheduler.from_config(SCHEDULER),
        )
        pipe.save_pretrained(folder / "checkpoint")
        exporters.export(folder / "checkpoint", folder / "bundle", verify=False)

    return kept("ldm-text", tmp_path_factory, make)


@pytest.fixture(scope="module")
def pair(folder):
    source = folder / "checkpoint"
    reference = diffusers.LDMTextToImagePipeline.from_pretrained(
        source, bert=LDMBertModel.from_pretrained(source / "bert")
    )
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(folder / "bundle"), reference


@pytest.mark.parametrize("guidance", [6, 1])
def test_pictures_equal(pair, guidance, monkeypatch):
    """The reference draws the noise of its steps from torch's global generator: here it is given the pictures' own."""
    pipe, reference = pair
    arguments = {
        "prompt": [PROMPT, "red apple"], "num_inference_steps": 6, "eta": 0.3, "guidance_scale": guidance,
        "output_type": "np",
    }  # fmt: skip
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    monkeypatch.setattr(reference.scheduler, "step", partial(reference.scheduler.step, generator=generators))
    expected = reference(generator=generators, **arguments).images
    assert_same(pipe(seed=11, **arguments).images, expected)


def test_text_encoder_equals_diffusers(pair):
    pipe, reference = pair
    ids = reference.tokenizer(["", PROMPT], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = reference.bert(ids)[0].numpy()
    got = pipe.embed(["", PROMPT])
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("text", [PROMPT, "", "Über-Burger's, ca[MASK]fé 中a zebra.", "burgers " * 40])
def test_tokens(form, text, tmp_path):
    reference = bert_tokenizer(tmp_path / "tokenizer")
    if form == "tokenizer.json":
        (tmp_path / "tokenizer" / "vocab.txt").unlink()
        reference.save_pretrained(tmp_path / "tokenizer")
    tokenizer = Tokenizer.of(tmp_path, tokenizer_entry(tmp_path, 30, kind="bert"))
    expected = reference(text, padding="max_length", max_length=30, truncation=True).input_ids
    tokens = tokenizer([text])
    np.testing.assert_array_equal(tokens.ids[0], expected)
    assert bool(tokens.truncated[0]) == (len(reference(text).input_ids) > 30)


def test_words_that_keep_their_case(tmp_path):
    bert_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    with pytest.raises(CheckpointError, match="do_lower_case is False"):
        tokenizer_entry(tmp_path, 77, kind="bert")


def test_an_autoencoder_with_a_codebook():
    """Which of the two a checkpoint has, its config says."""
    *_, encoder, decoder = LDM_TEXT.components(
        {
            "bert": BERT | {"max_position_embeddings": 77},
            "unet": UNET | {"in_channels": 3, "out_channels": 3},
            "vqvae": VQ,
        }
    )
    assert encoder.build is decoder.build is VQModel and decoder.inputs[0].shape[1] == VQ["vq_embed_dim"]
