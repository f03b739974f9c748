"""The parts of ``recipes.reproduce``: what differs in the environment, and in what came out."""
