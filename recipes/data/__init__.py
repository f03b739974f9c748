"""Reading and splitting rows, caching what was computed from them, and batches that a resumed run continues."""
