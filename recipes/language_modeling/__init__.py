"""Causal language modeling: the module, its data, and their parts."""
