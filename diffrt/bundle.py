"""Bundles: checked on opening."""
from diffrt.manifest import MANIFEST, ComponentSpec, Defaults, FileEntry, Manifest, TensorSpec, Variant

__all__ = ["MANIFEST", "ComponentSpec", "Defaults", "FileEntry", "Manifest", "TensorSpec", "Variant"]
