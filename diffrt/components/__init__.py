"""One file per component of a diffusion model: arrays in, arrays out."""
