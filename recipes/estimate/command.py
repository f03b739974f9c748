"""``python -m recipes.estimate --config cls.yaml --gpu-memory 24GB``: the memory of a training, predicted."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.command_line import CommandLine
from recipes.cli.commands import CommandParser
from recipes.cli.optimizer_files import Choice, choose
from recipes.estimate.memory_size import parse_size
from recipes.messages import RecipeError
from recipes.runs.folder import config_name

if TYPE_CHECKING:
    from recipes.estimate.mesh import Processes
    from recipes.estimate.parsed import ParsedRecipe
    from recipes.estimate.parts import Candidate, Setting

DEFAULT_OPTIMIZERS = ("adamw", "adafactor", "adamw_8bit")
DESCRIPTION = """\
Predicts the memory of a training from the shapes of the model and of a batch, in seconds: parameters, gradients,
optimizer state and activations, for several optimizers, with float32 and bfloat16 parameters, with and without
gradient release.

With several processes (--config trainer/fsdp2.yaml), the figures are those of one device, the fullest one.
Parameters, gradients and state are exact, to the byte. Activations are an upper bound, for the longest possible batch.
The overhead of the device (CUDA context, workspaces of kernels, rounding of the allocator) is not included: leave a
margin for it."""
EPILOG = """\
All other options are those of fit and override the recipe, such as --data.batch_size 16 or --model.dtype bfloat16.

examples:
  python -m recipes.estimate --config cls.yaml
  python -m recipes.estimate --config cls.yaml --gpu-memory 24GB --json estimate.json --png estimate.png
  python -m recipes.estimate --config cls.yaml --optimizer adafactor my/lion.yaml --data.max_length 512

exit status: 0, or 2 for an error on the command line or in a file"""


def main(args: Sequence[str]) -> int:
    """Estimates a recipe's memory and prints it.

    Args:
        args: The command line after ``estimate``.

    Returns:
        0.

    Raises:
        RecipeError: The command line or a file is invalid.
    """
    given, others = parser().parse_known_args(list(args))
    recipe = CommandLine.parse(others, files=given.config)
    choices = [choose(name, "--optimizer") for name in dict.fromkeys(given.optimizer or DEFAULT_OPTIMIZERS)]
    memory = parse_size(given.gpu_memory, "--gpu-memory") if given.gpu_memory else None
    files = [_writable(option, getattr(given, option)) for option in ("json", "png")]

    from recipes.estimate.advice import advise
    from recipes.estimate.mesh import fake_processes, processes_of
    from recipes.estimate.needed import needed_savings
    from recipes.estimate.output import as_json, print_table
    from recipes.estimate.parsed import ParsedRecipe
    from recipes.estimate.parts import estimate, without_duplicates

    if memory is not None:
        # Else the precision would be one that the CPU of this machine can afford.
        recipe += CommandLine.parse(["--trainer.accelerator=gpu"])
    parsed = ParsedRecipe(recipe)
    processes = processes_of(parsed.trainer_settings)
    with fake_processes(processes):
        setting, own, memory, remarks = _read(parsed, memory, processes)
        candidates = [own, *(_candidate(choice, recipe) for choice in choices)]
        rows = estimate(setting, candidates)
        if not given.optimizer:
            rows = without_duplicates(rows)
        advice = needed_savings(setting, own, rows, memory) + advise(setting, rows, memory, parsed.trainer_settings)
        result = as_json(config_name(given.config[0].path), setting, rows, memory, advice, remarks)
    print_table(result)
    json_file, png_file = files
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if png_file and not any(row.total is not None for row in rows):
        print(f"{png_file} is not drawn: nothing could be estimated", file=sys.stderr)
    elif png_file:
        from recipes.estimate.plot import draw

        draw(result, png_file)
    return 0


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser("estimate", description=DESCRIPTION, epilog=EPILOG)
    parser.add_config_argument()
    parser.add_argument(
        "--optimizer",
        nargs="+",
        metavar="NAME",
        help="files of configs/optimizer/ without .yaml, or paths of your own such files, to compare with the "
        f"recipe's own optimizer (default: {' '.join(DEFAULT_OPTIMIZERS)})",
    )
    parser.add_argument(
        "--gpu-memory",
        metavar="SIZE",
        help="memory to fit into, such as 24GB or 24000MB (powers of 1000) or 22.5GiB (of 1024); default: that of the "
        "CUDA device, if there is one",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--png", metavar="FILE", help="draw the figures as a chart")
    return parser


def _writable(option: str, name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise RecipeError(f"--{option} {name}: {what}; expected the name of a file")
    return path


def _read(
    recipe: "ParsedRecipe", memory: int | None, processes: "Processes | None"
) -> "tuple[Setting, Candidate, int | None, list[str]]":
    """The recipe, its own optimizer, the memory to fit into, and the remarks on what is not estimated."""
    import torch

    from recipes.estimate.parts import Candidate, Setting

    accelerator = str(recipe.trainer_settings["accelerator"])
    has_gpu = torch.cuda.is_available() and accelerator != "cpu"
    if memory is None and has_gpu:
        memory = torch.cuda.get_device_properties(0).total_memory
    gpu = memory is not None or has_gpu or accelerator in ("gpu", "cuda")
    setting = Setting(recipe.model, recipe.datamodule, recipe.trainer_settings["precision"], gpu, processes)
    class_path = recipe.optimizer_class
    name = f"{class_path.rpartition('.')[2]} (own)"
    remarks = [
        *_process_remarks(recipe.trainer_settings, processes),
        *_averaging_remarks(recipe.trainer_settings, setting),
        *([f"Gradient release is not estimated: {setting.no_release}."] if setting.no_release else []),
    ]
    return setting, Candidate.made_by(recipe.model.optimizer, name, class_path, own=True), memory, remarks


def _process_remarks(trainer: Mapping[str, Any], processes: "Processes | None") -> Iterator[str]:
    strategy = trainer["strategy"]
    name = strategy.get("class_path") if isinstance(strategy, Mapping) else strategy
    if processes is None:
        yield (
            f"trainer.strategy is {name}, trainer.devices {trainer['devices']}: the figures are for one process that "
            "holds the whole model. Strategies that shard it take less on each device."
        )
    elif processes.are_sharded and processes.tensor > 1:
        yield "Activations are those of the whole model; tensor parallelism divides a part of them."


def _averaging_remarks(trainer: Mapping[str, Any], setting: "Setting") -> Iterator[str]:
    from recipes.estimate.memory_size import shown_size

    callbacks = trainer["callbacks"] or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        path = str(callback.get("class_path", "") if isinstance(callback, Mapping) else type(callback).__name__)
        name = path.rpartition(".")[2]
        if name.endswith("WeightAveraging"):
            copy = sum(each.numel() * each.element_size() for each in setting.parameters)
            yield f"trainer.callbacks: the averaged weights of {name}, another {shown_size(copy)}, are not included."


def _candidate(choice: Choice, command_line: CommandLine) -> "Candidate":
    """An optimizer exactly as a run with ``--config optimizer/NAME.yaml`` would make it."""
    from recipes.estimate.parsed import ParsedRecipe, with_optimizer
    from recipes.estimate.parts import Candidate

    if choice.missing_module:
        return Candidate(choice.name, choice.class_path, None, f"{choice.missing_module} is not installed")
    recipe = ParsedRecipe(with_optimizer(command_line, choice.config))
    return Candidate.made_by(recipe.model.optimizer, choice.name, choice.class_path)
