"""The parts of ``recipes.compare``: what is to be run, running it, what came of it, tables and a picture."""
