"""Single-file checkpoints made the other way round: diffusers' own modules, their tensors renamed to CompVis' names."""

import re
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def unet(widths, attends, layers, context, linear, channels=4, size=64):
    kinds = [CROSS if a else PLAIN for a in attends]
    return {
        "sample_size": size, "in_channels": channels, "out_channels": 4, "block_out_channels": widths,
        "down_block_types": [down for down, _ in kinds], "up_block_types": [up for _, up in reversed(kinds)],
        "layers_per_block": layers, "cross_attention_dim": context, "use_linear_projection": linear,
        "attention_head_dim": [w // 64 for w in widths] if linear else 8, "upcast_attention": linear,
    }  # fmt: skip


def vae(widths, layers, size):
    return {
        "block_out_channels": widths, "layers_per_block": layers, "latent_channels": 4, "sample_size": size,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths), "scaling_factor": 0.18215,
    }  # fmt: skip


def text(width, inner, layers, activation):
    return {
        "vocab_size": 49408, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "hidden_act": activation, "projection_dim": width, "eos_token_id": 2,
        "bos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip


CONFIGS = {  # the layers of a text encoder are those used: OpenCLIP's has one more
    "sd1": (unet([32, 64, 64], [1, 1, 0], 1, 64, False, size=128), vae([32, 32, 64], 1, 512),
            text(64, 96, 2, "quick_gelu")),
    "sd2": (unet([64, 128], [1, 0], 2, 64, True, size=384), vae([32, 64], 2, 768), text(64, 128, 23, "gelu")),
    "sd1-inpainting": (unet([32, 64], [1, 0], 2, 64, False, 9, size=256), vae([32, 64], 2, 512),
                       text(64, 128, 1, "quick_gelu")),
    "sd1-edit": (unet([32, 64], [1, 0], 1, 64, False, 8, size=256), vae([32, 64], 1, 512),
                 text(64, 96, 2, "quick_gelu")),
    "sd2-mini": (unet([64, 128], [1, 0], 1, 64, True, size=384), vae([32, 32], 1, 768), text(64, 96, 1, "gelu")),
    "sd1-full": (unet([320, 640, 1280, 1280], [1, 1, 1, 0], 2, 768, False), vae([128, 256, 512, 512], 2, 512),
                 text(768, 3072, 12, "quick_gelu")),
    "sd2-full": (unet([320, 640, 1280, 1280], [1, 1, 1, 0], 2, 1024, True, size=96), vae([128, 256, 512, 512], 2, 768),
                 text(1024, 4096, 23, "gelu")),
    "sd2-inpainting-full": (unet([320, 640, 1280, 1280], [1, 1, 1, 0], 2, 1024, True, 9),
                            vae([128, 256, 512, 512], 2, 512), text(1024, 4096, 23, "gelu")),
}  # fmt: skip
TRAINING = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef2")


def modules(kind: str):
    """(UNet, autoencoder, text encoder) by diffusers and transformers, random."""
    torch.manual_seed(0)
    one, two, three = CONFIGS[kind]
    made = UNet2DConditionModel(**one).eval(), AutoencoderKL(**two).eval(), CLIPTextModel(CLIPTextConfig(**three))
    with torch.no_grad():
        for parameter in (p for m in made for p in m.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def single_file(kind: str, unet, vae, text) -> dict[str, torch.Tensor]:
    """All tensors of a single file, with what the training left in it."""
    tensors = {f"model.diffusion_model.{n}": t for n, t in unet_names(unet.state_dict()).items()}
    tensors |= {f"first_stage_model.{n}": t for n, t in vae_names(vae.state_dict()).items()}
    words = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in text.state_dict().items()}
    if kind.startswith("sd2"):
        tensors |= {f"cond_stage_model.model.{n}": t for n, t in open_clip_names(words).items()}
    else:
        tensors |= {f"cond_stage_model.transformer.{n}": t for n, t in words.items()}
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors |= {name: torch.zeros(1000, dtype=torch.float64) for name in TRAINING}
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["model_ema.diffusion_modeltime_embed0bias"] = torch.zeros(4)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def renamed(tensors: Mapping[str, torch.Tensor], rules) -> dict[str, torch.Tensor]:
    """Each rule, a pattern and a function of its match, is applied to each name once."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = tensor
    return found


def unet_names(state):
    layers = 1 + max(int(n.split(".")[3]) for n in state if n.startswith("down_blocks.0.resnets."))
    step = layers + 1

    def down(m):
        block, kind, layer = int(m[1]), m[2], int(m[3])
        if kind == "downsamplers":
            return f"input_blocks.{step * (block + 1)}.0.op"
        return f"input_blocks.{step * block + layer + 1}.{int(kind == 'attentions')}"

    def up(m):
        block, kind, layer = int(m[1]), m[2], int(m[3])
        if kind == "upsamplers":
            attends = f"up_blocks.{block}.attentions.0.norm.weight" in state
            return f"output_blocks.{step * block + layers}.{1 + attends}.conv"
        return f"output_blocks.{step * block + layer}.{int(kind == 'attentions')}"

    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
    outer = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
    return renamed(
        state,
        [
            (r"(?<=resnets\.\d\.)(\w+)", lambda m: resnet[m[1]]),
            (r"^down_blocks\.(\d)\.(\w+)\.(\d)(\.conv(?=\.(?:weight|bias)$))?", down),
            (r"^up_blocks\.(\d)\.(\w+)\.(\d)(\.conv(?=\.(?:weight|bias)$))?", up),
            (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
            (r"^mid_block\.attentions\.0", "middle_block.1"),
            (r"^(time_embedding\.linear_\d|conv_in|conv_norm_out|conv_out)", lambda m: outer[m[1]]),
        ],
    )


def vae_names(state):
    last = max(int(n.split(".")[2]) for n in state if n.startswith("decoder.up_blocks."))
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    found = renamed(
        state,
        [
            (r"(?<=mid_block\.attentions\.0\.)(group_norm|to_[qkv]|to_out\.0)", lambda m: attention[m[1]]),
            (r"mid_block\.attentions\.0", "mid.attn_1"),
            (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
            (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
            (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
            (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block"),
            (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample"),
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
        ],
    )
    return {n: t[:, :, None, None] if "attn_1" in n and t.ndim == 2 else t for n, t in found.items()}


def open_clip_names(state):
    """With the last layer, which Stable Diffusion 2 does not use, and the projection."""
    layers = 1 + max(int(n.split(".")[3]) for n in state if n.startswith("text_model.encoder.layers."))
    last = {n.replace(f".{layers - 1}.", f".{layers}.", 1): torch.zeros_like(t) for n, t in state.items()
            if n.startswith(f"text_model.encoder.layers.{layers - 1}.")}  # fmt: skip
    state = {**state, **last}
    fused = {n: t for n, t in state.items() if not re.search(r"[qkv]_proj", n)}
    for end in ("weight", "bias"):
        for i in range(layers + 1):
            start = f"text_model.encoder.layers.{i}.self_attn"
            fused[f"{start}.in_proj_{end}"] = torch.cat([state[f"{start}.{x}_proj.{end}"] for x in "qkv"])
    width = state["text_model.final_layer_norm.bias"].shape[0]
    found = renamed(
        fused,
        [
            (r"^text_model\.encoder\.layers", "transformer.resblocks"),
            (r"self_attn", "attn"),
            (r"layer_norm(?=\d)", "ln_"),
            (r"mlp\.fc1", "mlp.c_fc"),
            (r"mlp\.fc2", "mlp.c_proj"),
            (r"^text_model\.final_layer_norm", "ln_final"),
            (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
            (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
        ],
    )
    device = found["positional_embedding"].device
    return found | {
        "text_projection": torch.zeros(width, width, device=device),
        "logit_scale": torch.zeros((), device=device),
    }
