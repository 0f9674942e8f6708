"""Tensor names of single-file checkpoints ("ldm", after CompVis' latent-diffusion) and what they are in diffusers.

In STAGES a row is a module's name there and here, for block i and layer j of ``blocks`` blocks of ``layers`` layers:
mirror = blocks-1-i, down = 1 + (layers+1) i + j and up = (layers+1) i + j. INNER renames what is inside such a module.
"""

PARTS = {  # how a part's names begin -> the part and its naming
    "model.diffusion_model.": ("unet", "unet"),
    "first_stage_model.": ("vae", "vae"),
    "cond_stage_model.transformer.": ("text_encoder", "clip"),
    "cond_stage_model.model.": ("text_encoder", "open_clip"),
}

IGNORED = (  # how names begin that no picture needs: EMA copies, the training's numbers, what the text encoder leaves
    "model_ema.", "loss.", "first_stage_model.loss.", "global_step", "betas", "alphas_cumprod", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef",
    "lvlb_weights", "logvar", "first_stage_model.model_ema.",
    "cond_stage_model.logit_scale", "cond_stage_model.model.logit_scale", "cond_stage_model.model.text_projection",
    "cond_stage_model.transformer.text_projection", "cond_stage_model.transformer.logit_scale",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.transformer.embeddings.position_ids",
)  # fmt: skip

OTHERS = (  # (part of a name, what a file with such a name is)
    ("lora_", "a LoRA"),
    (".lora", "a LoRA"),
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    ("control_model.", "a ControlNet"),
    ("depth_model.", "Stable Diffusion 2's depth model"),
    ("motion_modules.", "AnimateDiff's motion modules"),
    ("model.diffusion_model.label_emb.", "a Stable Diffusion with class or size conditions"),
    ("down_blocks.", "one part of a checkpoint in diffusers layout; give the whole folder"),
)

STAGES = {
    "unet": (
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("input_blocks.{down}.0", "down_blocks.{i}.resnets.{j}"),
        ("input_blocks.{down}.1", "down_blocks.{i}.attentions.{j}"),
        ("input_blocks.{down}.0.op", "down_blocks.{i}.downsamplers.0.conv"),
        ("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("middle_block.2", "mid_block.resnets.1"),
        ("output_blocks.{up}.0", "up_blocks.{i}.resnets.{j}"),
        ("output_blocks.{up}.1", "up_blocks.{i}.attentions.{j}"),
        ("output_blocks.{up}.1.conv", "up_blocks.{i}.upsamplers.0.conv"),
        ("output_blocks.{up}.2.conv", "up_blocks.{i}.upsamplers.0.conv"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ),
    "vae": (
        ("quant_conv", "quant_conv"),
        ("post_quant_conv", "post_quant_conv"),
        ("encoder.conv_in", "encoder.conv_in"),
        ("encoder.down.{i}.block.{j}", "encoder.down_blocks.{i}.resnets.{j}"),
        ("encoder.down.{i}.downsample", "encoder.down_blocks.{i}.downsamplers.0"),
        ("encoder.mid.block_1", "encoder.mid_block.resnets.0"),
        ("encoder.mid.attn_1", "encoder.mid_block.attentions.0"),
        ("encoder.mid.block_2", "encoder.mid_block.resnets.1"),
        ("encoder.norm_out", "encoder.conv_norm_out"),
        ("encoder.conv_out", "encoder.conv_out"),
        ("decoder.conv_in", "decoder.conv_in"),
        ("decoder.mid.block_1", "decoder.mid_block.resnets.0"),
        ("decoder.mid.attn_1", "decoder.mid_block.attentions.0"),
        ("decoder.mid.block_2", "decoder.mid_block.resnets.1"),
        ("decoder.up.{mirror}.block.{j}", "decoder.up_blocks.{i}.resnets.{j}"),
        ("decoder.up.{mirror}.upsample", "decoder.up_blocks.{i}.upsamplers.0"),
        ("decoder.norm_out", "decoder.conv_norm_out"),
        ("decoder.conv_out", "decoder.conv_out"),
    ),
    "clip": (
        ("text_model", "text_model"),
        ("embeddings", "text_model.embeddings"),
        ("encoder", "text_model.encoder"),
        ("final_layer_norm", "text_model.final_layer_norm"),
    ),
    "open_clip": (
        ("token_embedding", "text_model.embeddings.token_embedding"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("transformer.resblocks.{i}", "text_model.encoder.layers.{i}"),
        ("ln_final", "text_model.final_layer_norm"),
    ),
}

INNER = {
    "unet": {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    },
    "vae": {
        "nin_shortcut": "conv_shortcut",
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj_out": "to_out.0",
    },
    "clip": {},
    "open_clip": {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    },
}

FUSED = {  # the end of an OpenCLIP name -> those of the parts it is made of, in order
    "attn.in_proj_weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.in_proj_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
}
