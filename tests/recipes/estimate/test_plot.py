"""The parts of the bars of ``estimate.png``."""

from recipes.estimate.plot import PARTS, part_bytes


def test_a_bar_has_a_part_for_each_entry_of_the_legend_and_ends_at_the_total() -> None:
    row = {
        "parameter_memory": {"bytes": 100},
        "buffer_bytes": 1,
        "gradient_memory": {"bytes": 50},
        "bucket_bytes": 25,
        "optimizer_state": {"bytes": 200},
        "activation_bytes": 30,
        "step_bytes": 20,
        "gathered": {"largest": 3, "parameters": 6, "gradients": 4},
        "total_bytes": 416,
    }

    sizes = part_bytes(row)

    assert dict(zip(PARTS, sizes, strict=True)) == {
        "parameters": 101,
        "gradients": 75,
        "optimizer state": 200,
        "activations and other temporaries (upper bound)": 30 + 6 + 4,
    }
    assert sum(sizes) == row["total_bytes"]
