"""The JAX side: the only place that imports jax. Needs the extra `flax`."""
