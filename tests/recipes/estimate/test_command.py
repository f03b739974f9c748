"""The predicted memory is the one in the training's report, and the advice makes a recipe fit."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.cli.main import main
from recipes.estimate import command
from recipes.estimate.memory_size import shown_size
from tests.recipes.estimate.commands import IN_A_GIGABYTE, estimate, own, rows

FINE_TUNING = ["--model.freeze=embeddings", "--model.pooling=mean", "--model.layer_lr_decay=0.9"]
PARTS = ("parameter_memory", "gradient_memory", "optimizer_state")


def report(name: str) -> dict[str, Any]:
    return json.loads(Path("runs", name, "version_0", "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "settings",
    [
        [],
        [
            "--config=optimizer/adafactor_transformers.yaml",
            "--model.optimizer.beta1=0.9",
            "--trainer.precision=bf16-true",
        ],
        ["--config=optimizer/torch_adafactor.yaml", "--model.dtype=bfloat16", *FINE_TUNING],
    ],
    ids=["Adafactor", "momentum, bf16-true", "bfloat16 and more"],
)
def test_parameters_gradients_and_state_equal_the_report_of_a_classifier(settings: list[str], classifier: str) -> None:
    row = own(estimate(classifier, *settings, "--optimizer", "adafactor"))

    assert main(["fit", classifier, *settings]) == 0

    for part in PARTS:
        assert row[part] == report("tiny-cls")[part], part
    assert row["optimizer"] == report("tiny-cls")["optimizer"]


def test_they_equal_the_report_of_a_language_model(language_model: str) -> None:
    result = estimate(language_model, "--model.gradient_checkpointing=true", "--optimizer", "adafactor")

    assert main(["fit", language_model, "--model.gradient_checkpointing=true"]) == 0

    for part in PARTS:
        assert own(result)[part] == report("tiny-lm")[part], part
    assert result["parameters"]["elements"] == report("tiny-lm")["parameters"]


def test_a_row_for_another_optimizer_equals_the_report_of_its_own_run(classifier: str) -> None:
    (row,) = rows(estimate(classifier, "--optimizer", "adamw"), name="adamw", gradient_release=False, dtype="float32")

    assert main(["fit", classifier, "--config=optimizer/adamw.yaml"]) == 0

    assert row["optimizer_state"] == report("tiny-cls")["optimizer_state"]


@pytest.mark.usefixtures("usual")
def test_nothing_is_trained_and_no_folder_is_created(usual_folder: Path) -> None:
    left = sorted(path.name for path in usual_folder.iterdir() if path.name != "unlimited")
    assert left == ["estimate.json", "estimate.png", "tiny-cls.yaml"]


def test_adamw_adafactor_and_8_bit_adam_are_estimated_in_both_dtypes_and_with_gradient_release(
    usual: tuple[dict[str, Any], str],
) -> None:
    result, _ = usual

    optimizers = {row["name"] for row in result["estimates"]}
    assert optimizers == {"Adafactor (own)", "adamw", "adamw_8bit"}  # without the duplicate in configs/optimizer/
    variants = [(row["dtype"], row["gradient_release"]) for row in rows(result, name="adamw")]
    assert variants == [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)]


def test_the_number_of_elements_of_each_state_is_printed(usual: tuple[dict[str, Any], str]) -> None:
    result, printed = usual
    for row in rows(result, gradient_release=False, dtype=result["estimates"][0]["dtype"]):
        assert f"{row['name']} {row['optimizer_state']['elements']:,}" in printed


def test_gradient_release_keeps_the_gradients_of_the_largest_block(usual: tuple[dict[str, Any], str]) -> None:
    result, printed = usual

    released = rows(result, own=True, gradient_release=True)[0]

    assert released["gradient_memory"]["elements"] == 2224  # the encoder's only layer
    assert result["gradient_release"] is False
    assert "model.gradient_release: true" in printed


def test_an_optimizer_that_does_not_support_gradient_release_has_no_total_with_it(
    usual: tuple[dict[str, Any], str],
) -> None:
    released = rows(usual[0], name="adamw", gradient_release=True)[0]

    assert released["total_bytes"] is None
    assert released["fits"] is None
    assert "AdamW cannot" in released["note"]


def test_the_largest_block_is_the_peak_in_the_report_of_a_run_with_gradient_release(classifier: str) -> None:
    settings = [classifier, "--model.gradient_release=true"]
    result = estimate(*settings, "--optimizer", "adafactor")

    assert main(["fit", *settings]) == 0

    assert result["gradient_release"] is True
    assert rows(result, own=True, gradient_release=True)[0]["gradient_memory"] == report("tiny-cls")["gradient_memory"]


def test_bfloat16_halves_parameters_and_gradients(usual: tuple[dict[str, Any], str]) -> None:
    full, half = own(usual[0], dtype="float32"), own(usual[0], dtype="bfloat16")

    assert half["parameter_memory"]["bytes"] == full["parameter_memory"]["bytes"] / 2
    assert half["gradient_memory"]["bytes"] == full["gradient_memory"]["bytes"] / 2
    assert half["optimizer_state"] == full["optimizer_state"]  # ours is kept in float32


def test_total_is_the_sum_of_the_parts(usual: tuple[dict[str, Any], str]) -> None:
    for row in usual[0]["estimates"]:
        if row["total_bytes"] is None:
            assert row["gradient_release"]  # which the optimizer does not support
            continue
        parts = sum(row[part]["bytes"] for part in PARTS) + row["buffer_bytes"]
        assert row["total_bytes"] == parts + max(row["activation_bytes"], row["step_bytes"])


def test_the_batch_is_the_longest_possible(usual: tuple[dict[str, Any], str]) -> None:
    batch = usual[0]["batch"]

    assert batch["input_ids"] == [6, 16]  # 13 tokens, padded to a multiple of 8
    assert batch["labels"] == [6]


def test_each_row_says_whether_it_fits_and_how_much_memory_is_spare(usual: tuple[dict[str, Any], str]) -> None:
    result, printed = usual

    assert result["gpu_memory_bytes"] == 150_000
    known = [row for row in result["estimates"] if row["total_bytes"] is not None]
    for row in known:
        assert row["spare_bytes"] == 150_000 - row["total_bytes"]
        assert row["fits"] is (row["spare_bytes"] >= 0)
    assert {row["fits"] for row in known} == {True, False}
    assert "✓" in printed
    assert "✗" in printed


def test_without_a_limit_no_row_says_whether_it_fits(unlimited: tuple[dict[str, Any], str]) -> None:
    result, _ = unlimited

    assert result["gpu_memory_bytes"] is None
    assert {row["fits"] for row in result["estimates"]} == {None}
    assert result["advice"] == []


def test_the_memory_of_the_gpu_is_the_default_limit(classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 10**9

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Properties)

    result = estimate(classifier, "--trainer.accelerator=auto", "--optimizer", "adafactor")

    assert (result["gpu_memory_bytes"], result["device"]) == (10**9, "gpu")


@pytest.mark.slow  # test_advice.py looks for the same size of batch without a model
def test_the_advised_batch_size_fits_and_a_larger_one_does_not(classifier: str) -> None:
    settings = ["--data.batch_size=60", "--optimizer", "adafactor"]
    total = own(estimate(classifier, "--gpu-memory=1GB", *settings))["total_bytes"]
    limit = f"--gpu-memory={0.7 * total / 1000}kB"

    advice = estimate(classifier, limit, *settings)["advice"]

    (size,) = [int(line.split("data.batch_size: ")[1].split(",")[0]) for line in advice if "batch_size" in line]
    assert 1 < size < 60
    assert own(estimate(classifier, limit, f"--data.batch_size={size}", "--optimizer", "adafactor"))["fits"]
    assert not own(estimate(classifier, limit, f"--data.batch_size={size + 2}", "--optimizer", "adafactor"))["fits"]


def test_checkpointing_is_advised_if_the_recipe_has_the_option(language_model: str) -> None:
    settings = [language_model, "--data.batch_size=64", "--data.block_size=32", "--optimizer", "adafactor"]
    total = own(estimate(*settings, "--gpu-memory=1GB"))["total_bytes"]

    advice = "\n".join(estimate(*settings, f"--gpu-memory={0.8 * total / 1000}kB")["advice"])

    assert "model.gradient_checkpointing: true): fits" in advice
    assert "model.dtype: bfloat16" in advice


def test_a_recipe_that_fits_says_which_of_its_savings_it_needs(language_model: str) -> None:
    savings = ["--model.gradient_checkpointing=true", "--model.gradient_release=true", "--model.dtype=bfloat16"]
    sizes = ["--data.batch_size=64", "--data.block_size=32", "--optimizer=adafactor"]
    settings = [language_model, *savings, *sizes]
    total = next(row for row in estimate(*settings)["estimates"] if row["own"] and row["gradient_release"])

    advice = estimate(*settings, f"--gpu-memory={1.01 * total['total_bytes'] / 1000}kB")["advice"]

    assert advice[0].startswith("The recipe fits: it takes ")
    off = {line.removeprefix("- without ").split(":")[0]: "exceeds the memory by" in line for line in advice[1:]}
    assert off.keys() == {"gradient release", "activation checkpointing", "bfloat16 parameters"}
    assert off["activation checkpointing"]
    assert off["bfloat16 parameters"]


def test_activations_on_the_host_take_less_of_a_gpu(language_model: str, kept: dict[str, Any]) -> None:
    moved = own(estimate(language_model, *IN_A_GIGABYTE, "--model.activation_offload=true"))

    assert moved["activation_bytes"] < kept["activation_bytes"]
    assert moved["gradient_memory"] == kept["gradient_memory"]


def test_ddp_takes_one_more_copy_of_the_gradients(classifier: str) -> None:
    row = rows(estimate(classifier, "--optimizer=adafactor", "--trainer.strategy=ddp", "--trainer.devices=2"))[0]

    assert row["bucket_bytes"] == row["gradient_memory"]["bytes"] > 0
    kept = [row[part]["bytes"] for part in ("parameter_memory", "gradient_memory", "optimizer_state")]
    lasting = sum(kept) + row["buffer_bytes"] + row["bucket_bytes"]
    assert row["total_bytes"] == lasting + max(row["activation_bytes"], row["step_bytes"])


def test_gradients_that_are_views_of_the_buckets_of_ddp_are_counted_once(
    classifier: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = estimate(classifier, "--optimizer=adafactor", "--config=trainer/ddp.yaml")

    assert result["processes"] == {"data": 2, "tensor": 1, "replicated": True, "gradient_as_bucket_view": True}
    assert {row["bucket_bytes"] for row in result["estimates"]} == {0}
    printed = capsys.readouterr().out
    assert "copy of the gradients" not in printed
    assert "FSDP2 over" not in printed


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["--config=trainer/ddp.yaml"], "DDP keeps all gradients until the end of the backward pass"),
        (["--trainer.precision=16-mixed", "--gpu-memory=1GB"], "trainer.precision is 16-mixed, and a gradient scaler"),
    ],
    ids=["DDP", "16-mixed"],
)
def test_a_run_that_does_not_support_gradient_release_has_no_total_with_it(
    settings: list[str], reason: str, classifier: str
) -> None:
    result = estimate(classifier, "--optimizer=adafactor", *settings)

    for row in rows(result, gradient_release=True):
        assert row["total_bytes"] is None
        assert row["note"].startswith(reason)
    assert result["remarks"][-1].startswith(f"Gradient release is not estimated: {reason}")


def test_advice_to_release_gradients_says_which_settings_of_the_trainer_it_needs(classifier: str) -> None:
    given = ["--trainer.gradient_clip_val=1.0", "--trainer.accumulate_grad_batches=2"]

    advice = "\n".join(estimate(classifier, "--gpu-memory=150kB", "--optimizer=adafactor", *given)["advice"])

    needed = "trainer.gradient_clip_val: null, trainer.accumulate_grad_batches: 1"
    assert f"- gradient release (model.gradient_release: true, {needed}): " in advice


def test_the_precision_for_a_gpu_is_the_given_one_on_a_cpu_where_it_is_slow(
    classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")

    result = estimate(classifier, *IN_A_GIGABYTE, "--trainer.precision=bf16-mixed")

    assert result["precision"] == "bf16-mixed"


def test_without_bfloat16_parameters_a_recipe_takes_what_it_takes_in_float32(classifier: str) -> None:
    adamw = [classifier, "--config=optimizer/adamw.yaml", "--optimizer=adafactor"]
    result = estimate(*adamw, "--gpu-memory=1GB")
    half, full = (own(result, dtype=dtype)["total_bytes"] for dtype in ("bfloat16", "float32"))

    advice = estimate(*adamw, "--model.dtype=bfloat16", f"--gpu-memory={1.01 * half / 1000}kB")["advice"]

    assert advice[-1] == f"- without bfloat16 parameters: exceeds the memory by {shown_size(full - int(1.01 * half))}"


def test_averaged_weights_of_a_callback_that_is_not_in_a_list_are_named_too() -> None:
    setting: Any = SimpleNamespace(parameters=[torch.zeros(2**18)])
    callback = {"class_path": "recipes.RecentWeightAveraging", "init_args": {}}
    (remark,) = command._averaging_remarks({"callbacks": callback}, setting)
    assert "averaged weights of RecentWeightAveraging, another 1.00 MB, are not included" in remark


def test_a_strategy_that_is_not_known_and_averaged_weights_are_named_in_remarks(
    unlimited: tuple[dict[str, Any], str],
) -> None:
    result, printed = unlimited

    assert result["remarks"][0].startswith("trainer.strategy is xla, trainer.devices 2: the figures are for one")
    assert "averaged weights of EMAWeightAveraging, another" in result["remarks"][1]
    assert "the figures are for one process" in printed


def test_fsdp2_divides_parameters_gradients_and_state(
    language_model: str, kept: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = "lightning.pytorch.strategies.ModelParallelStrategy"
    sizes = ("data_parallel_size=4", "tensor_parallel_size=1")
    settings = [
        f"--trainer.strategy.class_path={strategy}",
        *(f"--trainer.strategy.init_args.{size}" for size in sizes),
    ]

    result = estimate(language_model, "--optimizer=adafactor", *settings, "--trainer.devices=4")

    device = own(result)
    assert result["processes"] == {
        "data": 4,
        "tensor": 1,
        "replicated": False,
        "gradient_as_bucket_view": False,
    }
    assert result["parameters"]["elements"] == kept["parameter_memory"]["elements"]
    for part in ("parameter_memory", "gradient_memory", "optimizer_state"):
        assert kept[part]["bytes"] / 4 <= device[part]["bytes"] < kept[part]["bytes"] / 2
    assert 0 < device["gathered"]["largest"] < device["gathered"]["parameters"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "FSDP2 over 4" in printed
    assert "exact, for one process of 4." in printed


def test_a_recipe_that_can_never_fit_is_reported(classifier: str) -> None:
    advice = estimate(classifier, "--gpu-memory=20kB", "--optimizer", "adafactor")["advice"]

    assert advice[-1].startswith(
        "Even Adafactor (own), bfloat16 parameters, gradient release, activation checkpointing and data.batch_size: 1 "
        "exceed"
    )


def test_options_for_the_recipes_own_optimizer_do_not_apply_to_the_others(classifier: str) -> None:
    result = estimate(classifier, "--model.optimizer.beta1=0.9", "--optimizer", "adafactor")

    with_momentum, without = (rows(result, name=name)[0] for name in ("Adafactor (own)", "adafactor"))
    assert with_momentum["optimizer_state"]["elements"] > 5 * without["optimizer_state"]["elements"]


@pytest.mark.usefixtures("usual")
def test_the_chart_is_drawn(usual_folder: Path) -> None:
    from matplotlib.image import imread

    height, width, _ = imread(usual_folder / "estimate.png").shape
    assert width > height > 200


def test_help_explains_the_options(capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", "--help"]) == 0

    printed = " ".join(capsys.readouterr().out.split())
    assert "Activations are an upper bound" in printed
    assert "--gpu-memory SIZE" in printed
