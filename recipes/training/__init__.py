"""What every training shares, whatever the task: trainer defaults, optimizer, checkpoints, progress."""
