"""The parts of ``recipes.estimate``: shapes, what they take in memory, advice, tables and a picture."""
