"""Weighted, long, blended and composed prompts: their laws, and what sd_embed and compel make of the same words."""

import json
from pathlib import Path

import numpy as np
import pytest

import diffrt
from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import InvalidArgument
from diffrt.guidance import guide
from diffrt.prompting import Condition, Fragment, conditions, fragments
from diffrt.tasks.inpaint import telling
from diffrt.weighting import WEIGHTINGS, blend, weigh
from tests.checkpoints import write_tokenizer

GOLDEN = Path(__file__).parent / "golden" / "sd_embed.json"
LONG = "apple, red the, " * 20  # 6 tokens each: two chunks


def table(ids):
    """A text encoder that knows only ids and places: [N,S] -> [N,S,2] f32"""
    ids, rng = np.asarray(ids), np.random.default_rng(0)
    return (rng.standard_normal((600, 2)) + 3)[ids].astype(np.float32) + np.arange(ids.shape[1], dtype=np.float32)[
        :, None
    ]


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "it"
    write_tokenizer(folder, "<|endoftext|>")
    return Tokenizer(folder, 77, "<|endoftext|>")


@pytest.fixture(scope="module")
def pipe(sd1_bundle):
    return diffrt.load(sd1_bundle)


def test_fragments_equal_sd_embed(golden):
    assert len(golden["fragments"]) > 300
    for text, expected in golden["fragments"].items():
        assert [list(fragment) for fragment in fragments(text)] == expected, text


def test_conditions_equal_sd_embed(golden):
    for prompt, expected in golden["conditions"].items():
        assert conditions(prompt) == tuple(Condition(fragments(text), weight) for text, weight in expected)


def test_weighted_embeddings_equal_sd_embed(golden, tokenizer):
    lengths = []
    for *pair, embeds, negative in golden["embeds"]:
        texts = [fragments(text) for text in pair]
        ids, weights, _ = tokenizer(texts, tokenizer.chunks(texts))
        weighed = weigh("scale", table(ids), weights, table([[0]])).reshape(2, -1, 2)
        # sd_embed keeps weights in half precision: 1.1 is not exact
        np.testing.assert_allclose(weighed, [embeds, negative], rtol=2**-11)
        lengths.append(weighed.shape[1])
    assert lengths == [77, 154, 231]


def written(pieces):
    """The inverse of parsing."""
    escaped = [("".join("\\" * (c in "()[]\\") + c for c in text), weight) for text, weight in pieces]
    return "".join(f"({text}:{weight})" for text, weight in escaped)


@pytest.mark.parametrize(
    "pieces",
    [
        [("a red apple", 1.0)],
        [("a ", 1.0), ("red", 1.5), (" apple", 1.0)],
        [("(", -1.0), ("[word]", 0.25), (r"\)", 3.0), (": 1.3", 0.5)],
    ],
)
def test_parsing_reads_what_is_written(pieces):
    assert fragments(written(pieces)) == tuple(pieces)


def test_numbers_and_the_space_around_them():
    assert fragments("(a : 1.5 )") == (Fragment("a ", 1.5),)
    assert fragments("(a:1e1)(b:-.5)(c:+2.)") == (Fragment("a", 10.0), Fragment("b", -0.5), Fragment("c", 2.0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(a:1e9)", "the weight 1e+09: give one from -100 to 100"),
        ("(a:-101)", "the weight -101"),
        ("(a:inf)", "the weight inf"),
        ("(a:nan)", "the weight nan"),
        ("(" * 60 + "a", "the weight 304.482"),
        ("a [cat:dog:0.5]", "edits the prompt between steps"),
        ("a [cat|dog]", "edits the prompt between steps"),
        ("a AND ", "nothing on one side of AND"),
        ("AND :0.8", "nothing on one side of AND"),
        ("a AND b:inf", "the weight inf"),
    ],
)
def test_what_cannot_be_used_is_named(text, says):
    with pytest.raises(InvalidArgument) as caught:
        conditions(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_looks_like_syntax_is_text():
    assert fragments(r"\[a|b\] [on] | [a]: 2") == tuple(
        Fragment(*f) for f in [("[a|b] ", 1.0), ("on", 1 / 1.1), (" | ", 1.0), ("a", 1 / 1.1), (": 2", 1.0)]
    )
    assert conditions("a and b :0.8 SAND") == (Condition((Fragment("a and b :0.8 SAND", 1.0),)),)


def test_cut_off_ends_are_those_of_the_words(tokenizer):
    text = fragments("apple " * 74 + "(red the:2) (Tail)")
    assert tokenizer([text]).truncated == ("the Tail",)
    assert tokenizer([text], 2).truncated == ("",)
    assert tokenizer(["apple " * 160], 2).truncated == ("apple " * 10,)


def test_chunks_are_counted(tokenizer):
    counts = [tokenizer.chunks(["apple " * n]) for n in (0, 1, 75, 76, 150, 151)]
    assert counts == [1, 1, 1, 2, 2, 3]
    assert tokenizer.chunks([]) == 1


Z = np.random.default_rng(5).standard_normal((3, 7, 4), dtype=np.float32) + np.float32(0.5)
EMPTY = np.random.default_rng(6).standard_normal((1, 7, 4), dtype=np.float32)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weight_of_one_changes_nothing(weighting):
    weights = np.ones((3, 7), np.float32)
    np.testing.assert_array_equal(weigh(weighting, Z, weights, EMPTY), Z)
    weights[1, 2] = -1.5
    weighed = weigh(weighting, Z, weights, EMPTY)
    np.testing.assert_array_equal(weighed[[0, 2]], Z[[0, 2]])  # a chunk does not depend on its neighbours
    assert np.abs(weighed[1, 2] - Z[1, 2]).min() > 1e-3


def test_weightings_by_their_definitions():
    torch = pytest.importorskip("torch")
    weights = np.random.default_rng(7).uniform(-1, 2, (3, 7)).astype(np.float32)
    z, w, empty = torch.from_numpy(Z), torch.from_numpy(weights)[..., None], torch.from_numpy(EMPTY)
    np.testing.assert_array_equal(weigh("scale", Z, weights, EMPTY), z * w)
    np.testing.assert_allclose(weigh("empty", Z, weights, EMPTY), torch.lerp(empty.expand_as(z), z, w), atol=1e-5)
    mean = weigh("mean", Z, weights, EMPTY)
    np.testing.assert_allclose(mean.mean(axis=(1, 2)), Z.mean(axis=(1, 2)), rtol=1e-4)
    ratio = mean / weigh("scale", Z, weights, EMPTY)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-4)


def test_weights_that_leave_no_mean():
    with pytest.raises(InvalidArgument, match="cancel out"):
        weigh("mean", Z, np.zeros((3, 7), np.float32), EMPTY)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_embeddings_without_weights_are_the_plain_ones(pipe, weighting):
    plain = pipe.embed("a red apple, (very)")
    np.testing.assert_array_equal(pipe.embed(r"a red apple, \(very\)", weighting=weighting), plain)
    np.testing.assert_array_equal(pipe.embed(r"(a (red:1) apple:1), \(very\)", weighting=weighting), plain)
    assert not np.array_equal(pipe.embed("a red apple, (very)", weighting=weighting), plain)


def test_the_first_chunk_of_a_short_prompt_is_the_plain_embedding(pipe):
    plain, nothing, long = pipe.embed("a red apple"), pipe.embed(""), pipe.embed("a red apple", chunks=3)
    assert long.shape == (1, 231, 32)
    np.testing.assert_allclose(long, np.concatenate([plain, nothing, nothing], axis=1), atol=1e-5)


def test_several_prompts_are_each_alone(pipe):
    texts = ["(a:1.5) red apple", "the [thing]", "(no:-1)"]
    for weighting in WEIGHTINGS:
        together = pipe.embed(texts, weighting=weighting, chunks=2)
        for text, one in zip(texts, together, strict=True):
            np.testing.assert_allclose(pipe.embed(text, weighting=weighting, chunks=2)[0], one, atol=1e-5)


def test_bad_embeddings(pipe):
    for arguments, says in (
        ({"prompts": None}, "prompts is"),
        ({"prompts": "a", "weighting": "scael"}, "did you mean 'scale'"),
        ({"prompts": "a AND b", "weighting": "scale"}, "embed each of them"),
        ({"prompts": "a", "chunks": 17}, "from 1 to 16, or 'auto'"),
        ({"prompts": "apple " * 1300, "chunks": "auto"}, "fills 18 chunks of text; at most 16"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            pipe.embed(**arguments)
    with pytest.warns(UserWarning, match="cut off: 'tail'"):
        pipe.embed("apple " * 75 + "tail")


def test_blending():
    a, b = Z[:1], Z[1:2]
    np.testing.assert_allclose(blend([a, b], [0.7, 0.3]), np.float32(0.7) * a + np.float32(0.3) * b, rtol=1e-6)
    np.testing.assert_array_equal(blend([a, b], [1, 0]), a)
    assert blend([a, b], [0.5, 0.5]).dtype == np.float32
    for embeds, weights, says in (
        ([a], [1, 2], "1 embeddings and 2 weights"),
        ([], [], "0 embeddings"),
        ([a, b[:, :3]], [1, 1], r"\[1, 7, 4\] and \[1, 3, 4\]"),
        ([a, b], [1, float("nan")], "finite"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            blend(embeds, weights)


@pytest.fixture(scope="module")
def compel(sd1_checkpoint):
    """compel, over the same text encoder in PyTorch."""
    compel = pytest.importorskip("compel")
    from compel.embeddings_provider import SplitLongTextMode
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(sd1_checkpoint, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(sd1_checkpoint, subfolder="text_encoder").eval()
    return compel.Compel(tokenizer, encoder, truncate_long_prompts=False, split_long_text_mode=SplitLongTextMode.BRUTAL)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("a red apple", "a red apple"),
        ("a (red)1.5 apple", "a (red:1.5) apple"),
        ("a (red apple)+ thing", "a (red apple) thing"),
        ("(the red)2 (apple)++", "(the red:2) ((apple))"),
        ("((red)1.2 apple)1.5 the", "((red:1.2) apple:1.5) the"),
        (LONG + "(red)1.5 apple", LONG + "(red:1.5) apple"),
        ("(" + LONG + ")1.25 the", "(" + LONG + ":1.25) the"),
    ],
)
def test_weighting_upwards_equals_compel(pipe, compel, theirs, ours):
    expected = compel(theirs).numpy()
    embeds = pipe.embed(ours, weighting="empty", chunks="auto")
    assert embeds.shape == expected.shape
    np.testing.assert_allclose(embeds, expected, atol=2e-5)


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.25, -0.25)])
def test_blending_equals_compel(pipe, compel, weights):
    expected = compel(f'("a red apple", "the thing").blend({weights[0]}, {weights[1]}, no_normalize)').numpy()
    a, b = pipe.embed(["a red apple", "the thing"])
    np.testing.assert_allclose(blend([a[None], b[None]], weights), expected, atol=1e-5)


def test_composing_is_the_papers_sum():
    rng = np.random.default_rng(0)
    embeds, negative = rng.standard_normal((3 * 2, 7, 4)), rng.standard_normal((2, 7, 4))
    x, scale = rng.standard_normal((2, 4, 5, 5)), rng.standard_normal((3, 2)).astype(np.float32)

    def model(x, t, told):
        return np.tanh(x * t + told["e"].mean(axis=(1, 2))[:, None, None, None])

    without = model(x, 0.5, {"e": negative})
    expected = without.copy()
    for k in range(3):
        expected += scale[k][:, None, None, None] * (model(x, 0.5, {"e": embeds[2 * k : 2 * k + 2]}) - without)
    np.testing.assert_allclose(guide(model, {"e": embeds}, {"e": negative}, scale)(x, 0.5, 0), expected, rtol=1e-12)


def test_every_condition_is_told_of_the_picture_beside():
    seen = []
    beside = np.random.default_rng(0).standard_normal((2, 5, 3, 3), dtype=np.float32)
    model = telling(lambda x, t, e: seen.append(x) or x[:, :4], beside)
    x = np.ones((2, 4, 3, 3), np.float32)
    guide(model, {"e": np.ones((4, 7, 8), np.float32)}, {"e": np.ones((2, 7, 8), np.float32)}, 3.0)(x, 1.0, 0)
    np.testing.assert_array_equal(seen[0][:, 4:], np.concatenate([beside] * 3))


def picture(pipe, prompt, **arguments):
    return pipe(prompt, **{"num_inference_steps": 4, "seed": 3, "output_type": "np", **arguments}).images


def test_one_condition_is_plain_guidance(pipe):
    expected = picture(pipe, "a red apple", guidance_scale=5.0)
    np.testing.assert_array_equal(picture(pipe, "a red apple", weighting="scale", guidance_scale=5.0), expected)
    same = picture(pipe, "a red apple :0.3 AND a red apple :0.7", weighting="scale", guidance_scale=5.0)
    assert np.abs(same - expected).max() < 1e-4
    double = picture(pipe, "a red apple AND a red apple", weighting="scale", guidance_scale=2.5)
    assert np.abs(double - expected).max() < 1e-4
    other = picture(pipe, "a red apple AND the thing", weighting="scale", guidance_scale=5.0)
    assert np.abs(other - expected).max() > 0.01


def test_a_batch_of_composed_prompts_is_each_alone(pipe):
    prompts = ["a red apple AND the thing :0.5", "(the:1.5) apple", "one AND two AND three :-1"]
    arguments = {"weighting": "empty", "negative_prompt": ["(dull:1.4)", "", "[x]"], "chunks": 2}
    together = picture(pipe, prompts, seed=[5, 6, 7], **arguments)
    for i, prompt in enumerate(prompts):
        alone = picture(pipe, prompt, seed=5 + i, **{**arguments, "negative_prompt": arguments["negative_prompt"][i]})
        assert np.abs(alone[0] - together[i]).max() < 1e-4


def test_parameters_repeat_weighted_and_long_pictures(pipe):
    out = pipe(
        [LONG + "(red:1.5) AND the thing :0.5", "[short]"], weighting="mean", chunks="auto", negative_prompt="(dull)",
        num_inference_steps=3, guidance_scale=4.0, seed=9, output_type="np",
    )  # fmt: skip
    assert out.prompt_embeds is None
    assert out.negative_prompt_embeds.shape == (2, 154, 32)
    for i, parameters in enumerate(out.parameters):
        assert (parameters["weighting"], parameters["chunks"]) == ("mean", 2)
        assert json.loads(json.dumps(parameters)) == parameters
        again = {key: value for key, value in parameters.items() if key not in ("scheduler", "model")}
        assert np.abs(pipe(**again, output_type="np").images[0] - out.images[i]).max() < 1e-4
    plain = pipe("(a) AND b", num_inference_steps=1, seed=1).parameters[0]
    assert not {"weighting", "chunks"} & set(plain)


def test_embeddings_pass_in_with_any_number_of_chunks(pipe):
    embeds = pipe.embed([LONG], chunks="auto")
    arguments = {"num_inference_steps": 2, "seed": 1, "output_type": "np"}
    out = pipe(prompt_embeds=embeds, negative_prompt="dull", chunks="auto", **arguments)
    np.testing.assert_array_equal(out.images, pipe(LONG, negative_prompt="dull", chunks=2, **arguments).images)
    with pytest.raises(InvalidArgument, match=r"\[1, 154, 32\].*\[1, 77, 32\].*or chunks='auto'"):
        pipe(prompt_embeds=embeds, negative_prompt="dull", **arguments)
