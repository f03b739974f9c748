"""Gradient release: parameters are stepped during the backward pass, block by block, and their gradients freed at once.

No full set of gradients ever exists: at most that of the largest block. ``blocks.py`` finds the blocks, ``release.py``
steps them, ``uses.py`` knows how many gradients a shared parameter receives, ``unsupported.py`` what it does not work
with, ``callback.py`` is the same for Lightning.
"""

from lightning_adafactor.gradient_release.blocks import Block, By, find_blocks
from lightning_adafactor.gradient_release.release import ReleasedGradients, release_gradients

__all__ = ["Block", "By", "ReleasedGradients", "find_blocks", "release_gradients"]
