"""What every training has, whatever its task: trainer defaults, optimizer, checkpoints, progress."""
