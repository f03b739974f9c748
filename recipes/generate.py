"""``python -m recipes generate --run runs/lm/version_0 --prompt "Once upon a time"``: text from a run's model."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.cli.commands import CommandParser
from recipes.messages import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EPILOG = """\
examples:
  python -m recipes generate --run runs/lm/version_0 --prompt "Once upon a time" --prompt "The king"
  echo "Once upon a time" | python -m recipes generate --run runs/lm/version_0 --temperature 0
"""


def main(args: list[str]) -> int:
    """Prints each prompt with its continuation.

    Args:
        args: The command line after ``generate``.

    Returns:
        The exit status.

    Raises:
        RecipeError: The run has no language model, a prompt is empty or too long, a value is out of range, or the
            GPU is out of memory.
    """
    options = _parse(args)
    prompts = options.prompt or [_from_standard_input()]
    for i, prompt in enumerate(prompts):
        if not prompt.strip():
            raise RecipeError(f"--prompt {i + 1} is empty: give at least one word to continue")
    folder = model_folder(options.run)

    import torch

    try:
        _write(folder, prompts, options)
    except torch.OutOfMemoryError as error:
        raise RecipeError(
            "the GPU is out of memory: end other processes on it, generate fewer tokens (--max-new-tokens), or set the "
            "environment variable CUDA_VISIBLE_DEVICES to an empty value to use the CPU"
        ) from error
    return 0


def _write(folder: Path, prompts: list[str], options: Namespace) -> None:
    from recipes.language_modeling.generation import continue_text

    model, tokenizer = _load(folder, options.trust_remote_code)
    for i, prompt in enumerate(prompts):
        text = continue_text(
            model,
            tokenizer,
            prompt,
            key=f"--prompt {i + 1}",
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
        )
        print(("\n" if i else "") + prompt + text, flush=True)


def model_folder(run: str) -> Path:
    """The folder of a run's language model.

    Args:
        run: The run's folder, or its ``model/`` itself.

    Raises:
        RecipeError: There is no such folder, or no language model in it.
    """
    path = Path(run).expanduser()
    if not path.is_dir():
        raise RecipeError(f"--run {run}: no such folder; give that of a run, such as runs/lm/version_0")
    folder = path if (path / "config.json").is_file() else path / "model"
    if not (folder / "config.json").is_file():
        runs = [child.name for child in path.iterdir() if (child / "model").is_dir()]
        runs.sort(key=lambda name: (len(name), name))  # version_10 after version_9
        hint = f"; did you mean {path / runs[-1]}?" if runs else ": has the run finished?"
        raise RecipeError(f"--run {run}: it has no model/{hint}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"--run {run}: {folder / 'config.json'} cannot be read: {error}") from error
    kinds = config.get("architectures") or []
    if any("Classification" in kind for kind in kinds):
        raise RecipeError(
            f"--run {run}: its model is a {kinds[0]}, which cannot generate text: give the run of a language model"
        )
    return folder


def _load(folder: Path, trust_remote_code: bool) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch
    from transformers import AutoModelForCausalLM

    from recipes.models.pretrained import load_config, load_model, load_tokenizer

    name = str(folder)
    tokenizer = load_tokenizer(name, "--run", padding=False, trust_remote_code=trust_remote_code)
    config = load_config(name, "--run", trust_remote_code=trust_remote_code)
    dtype = "bfloat16" if config.dtype == torch.bfloat16 else "float32"
    model = load_model(AutoModelForCausalLM, name, "--run", config, dtype, trust_remote_code)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), tokenizer  # type: ignore[arg-type]


def _from_standard_input() -> str:
    if sys.stdin.isatty():
        print("Type a prompt, then Ctrl-D:", file=sys.stderr)
    return sys.stdin.read().rstrip("\n")


def _parse(args: list[str]) -> Namespace:
    parser = CommandParser(
        "generate", description="Generates text with the language model in a run's model/.", epilog=EPILOG
    )
    parser.add_argument("--run", required=True, help="folder of a run, such as runs/lm/version_0, or of a model")
    parser.add_argument(
        "--prompt", action="append", help="text to continue; can be given several times (default: standard input)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=100, help="maximum number of tokens to generate (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="sampling temperature: 0 always takes the most probable token, 1 samples from the model's distribution "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        help="sample from the most probable tokens that together have this probability (default: %(default)s)",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")
    options = parser.parse_args(args)
    for name, valid, wanted in (
        ("max_new_tokens", options.max_new_tokens >= 1, "1 or more"),
        ("temperature", 0 <= options.temperature < float("inf"), "0 or more"),
        ("top_p", 0 < options.top_p <= 1, "more than 0 and at most 1"),
        ("seed", 0 <= options.seed < 2**63, "0 or more"),
    ):
        if not valid:
            raise RecipeError(f"--{name.replace('_', '-')} is {getattr(options, name)}: give {wanted}")
    return options


if __name__ == "__main__":
    from recipes.cli.main import main as run

    sys.exit(run(["generate", *sys.argv[1:]]))
