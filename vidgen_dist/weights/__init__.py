"""Checkpoints: files, hub, safetensors, tokenizers."""
