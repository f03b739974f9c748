"""Loads models and tokenizers of transformers from the hub, folders and GGUF files."""
