"""The step as batched Triton launches. Triton is imported only when a step is to be taken."""
