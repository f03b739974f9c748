"""The files in configs/optimizer/ whose class is neither ours nor an AdamW."""

OF_LIBRARIES = [
    "adam_mini",
    "adamw_torchao_4bit",
    "apollo",
    "came",
    "galore",
    "lion",
    "lion_8bit",
    "muon",
    "sgd",
    "stableadamw",
]
"""Those that a CPU supports."""

GPU_ONLY = ["adafactor8bit", "adamw_8bit_paged", "adamw_paged", "flashoptim", "gefen"]
