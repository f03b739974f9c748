"""GGUF files: converted once to a folder of safetensors, which later runs load in a second."""

import io
import os
import shutil
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from recipes.checksums import file_sha256
from recipes.messages import RecipeError
from recipes.models.pretrained import quiet, save

READERS = ("gguf", "accelerate")


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def as_folder(name: str, key: str) -> str:
    """The folder or hub name to load a model from: the name itself, or the converted folder of a GGUF file.

    Quantized weights are dequantized to float32; model and tokenizer are saved in ``recipes/gguf/SHA256`` below
    ``HF_HOME``, with the sha256 of the file. An interrupted conversion leaves nothing there.

    Args:
        name: A hub name, a folder, or a GGUF file.
        key: The configuration key that the name stands under, for error messages.

    Raises:
        RecipeError: There is no such file, it cannot be read, or the packages that read it are not installed.
    """
    if not is_gguf(name):
        return name
    file = gguf_file(name, key)
    folder = _folder_of(file)
    if not folder.is_dir():
        try:
            _convert(file, key, folder)
        except OSError as error:
            raise RecipeError(
                f"{key}: the conversion of '{name}' cannot be saved in {folder.parent} ({error.strerror or error}): "
                "set the environment variable HF_HOME to a folder with enough space"
            ) from error
    return str(folder)


def config_location(name: str, key: str) -> dict[str, str]:
    """Where ``AutoConfig.from_pretrained`` finds a model's configuration, without converting a GGUF file.

    Args:
        name: A hub name, a folder, or a GGUF file.
        key: The configuration key that the name stands under, for error messages.

    Returns:
        ``name`` and, for a GGUF file that was not converted before, ``gguf_file``.

    Raises:
        RecipeError: There is no such file, or it is of another kind.
    """
    if not is_gguf(name):
        return {"name": name}
    file = gguf_file(name, key)
    folder = _folder_of(file)
    return {"name": str(folder)} if folder.is_dir() else {"name": str(file.parent), "gguf_file": file.name}


def _folder_of(file: Path) -> Path:
    from huggingface_hub import constants

    stat = file.stat()
    return Path(constants.HF_HOME) / "recipes" / "gguf" / _sha256(file, stat.st_size, stat.st_mtime_ns)


def gguf_file(name: str, key: str) -> Path:
    """The GGUF file of a name, checked to be one.

    Args:
        name: The file.
        key: The configuration key that the name stands under, for error messages.

    Raises:
        RecipeError: There is no such file, or it is of another kind.
    """
    file = Path(name).expanduser()
    if not file.is_file():
        raise RecipeError(f"{key}: there is no file '{name}' (looked from {os.getcwd()}): correct the path")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise RecipeError(f"{key}: '{name}' is not a GGUF file, or a corrupted one: it does not start with GGUF")
    return file


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """The sha256 of a file, cached: it may be of several gigabytes and is needed several times."""
    return file_sha256(file)


def _convert(file: Path, key: str, folder: Path) -> None:
    for package in READERS:
        if find_spec(package) is None:
            raise RecipeError(
                f"{key}: '{file}' is a GGUF file, which transformers reads with the package {package}: "
                f"pip install {package}"
            )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    rank_zero_info(f"Converting {file.name} to safetensors, once; the result is kept in {folder}.")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # transformers draws this progress bar into files too.
    no_bar = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with quiet(), no_bar:
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
    except MemoryError as error:
        raise RecipeError(f"{key}: '{file}' does not fit into this machine's memory in float32") from error
    except Exception as error:  # reading a corrupted file can raise anything
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{key}: '{file}' cannot be read, it is corrupted or of an unknown kind: {cause}") from error
    # Otherwise save_pretrained takes the weights for quantized ones.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix="unfinished-"))
    try:
        save(model, tokenizer, unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
