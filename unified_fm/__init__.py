"""Unified foundation models for language, vision and vision-language, in JAX. See README.md."""

__version__ = "0.1.0"
