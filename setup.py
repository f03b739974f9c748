"""What pyproject.toml cannot say: configs/ is installed as recipes.configs, beside the packages found."""

from setuptools import find_namespace_packages, setup

CODE = find_namespace_packages(include=["lightning_adafactor*", "recipes*"])

setup(packages=[*CODE, "recipes.configs"], package_dir={"recipes.configs": "configs"})
