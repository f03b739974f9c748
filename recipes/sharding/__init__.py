"""Models that are sharded over several devices: by FSDP2, by tensor parallelism, or by both."""
