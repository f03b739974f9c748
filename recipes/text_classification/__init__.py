"""Text classification: the module, its data, and their parts."""
