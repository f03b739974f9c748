"""Text classification: the module, its data, and what both are made of."""
