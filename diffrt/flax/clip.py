"""CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020) in JAX, with transformers' tensor names."""

import jax
from jax import Array

from diffrt.flax.layers import attention, layer_norm, linear
from diffrt.flax.parameters import Parameters
from diffrt.model_configs import TextConfig

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def clip_text(c: TextConfig, p: Parameters, ids: Array) -> Array:
    """The last hidden state, i32 [B,S] -> [B,S,D], in the dtype of the parameters."""
    dim = c.hidden_size
    words = p("embeddings.token_embedding.weight", (c.vocab_size, dim))
    places = p("embeddings.position_embedding.weight", (c.max_position_embeddings, dim))
    x = words[ids] + places[: ids.shape[1]]
    for i in range(c.num_hidden_layers):
        layer = f"encoder.layers.{i}"
        h = layer_norm(p, f"{layer}.layer_norm1", x, c.layer_norm_eps)
        q, k, v = (linear(p, f"{layer}.self_attn.{part}_proj", h, dim) for part in "qkv")
        h = attention(q, k, v, c.num_attention_heads, causal=True)
        x = x + linear(p, f"{layer}.self_attn.out_proj", h, dim)
        h = linear(
            p, f"{layer}.mlp.fc1", layer_norm(p, f"{layer}.layer_norm2", x, c.layer_norm_eps), c.intermediate_size
        )
        x = x + linear(p, f"{layer}.mlp.fc2", ACTIVATIONS[c.hidden_act](h), dim)
    return layer_norm(p, "final_layer_norm", x, c.layer_norm_eps)
