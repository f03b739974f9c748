"""Installs configs/ as recipes.configs, and compiles the optimizer's step into the wheel."""

import functools
import importlib.util
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

CODE = find_namespace_packages(include=["lightning_adafactor", "lightning_adafactor.*", "recipes*"])
CODE.remove("lightning_adafactor.compiled.source")  # C, which belongs to the package above it
COMPILED = Path("lightning_adafactor", "compiled")


@functools.cache
def compiled_step() -> bytes | None:
    """The library, or None, after a sentence that says why, where it cannot be built."""
    spec = importlib.util.spec_from_file_location("build_step", Path(__file__).parent / COMPILED / "build.py")
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return builder.build(Path(folder) / "step.so").read_bytes()
        except builder.BuildError as error:
            print(f"The wheel has no compiled step, and is taken in plain torch operations: {error}.", file=sys.stderr)
            return None


class BuildWithStep(build_py):
    """Puts the library beside its sources, but for editable installs, where ``scripts/install.py`` does."""

    def run(self) -> None:
        """Copies the modules, then the library."""
        super().run()
        step = None if self.editable_mode else compiled_step()
        if step is not None:
            target = Path(self.build_lib, COMPILED, "step.so")
            target.write_bytes(step)
            target.chmod(0o755)


class WheelWithStep(bdist_wheel):
    """A wheel for this platform and any Python 3: the library is called through ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        """The wheel's tag."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


class MaybeCompiled(Distribution):
    """A distribution that is for this platform alone where the library can be built."""

    def has_ext_modules(self) -> bool:
        """Whether a wheel is made that holds the library."""
        return "bdist_wheel" in self.commands and compiled_step() is not None


setup(
    packages=[*CODE, "recipes.configs"],
    package_dir={"recipes.configs": "configs"},
    cmdclass={"build_py": BuildWithStep, "bdist_wheel": WheelWithStep},
    distclass=MaybeCompiled,
)
