"""Installs configs/ as recipes.configs in addition to the packages found, which pyproject.toml cannot express."""

from setuptools import find_namespace_packages, setup

CODE = find_namespace_packages(include=["lightning_adafactor*", "recipes*"])

setup(packages=[*CODE, "recipes.configs"], package_dir={"recipes.configs": "configs"})
