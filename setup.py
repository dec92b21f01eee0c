"""Maps the import package cdam_fast.kernels onto the top-level folder kernels/; the rest is in pyproject.toml."""

from setuptools import setup

setup(
    packages=[
        "cdam_fast",
        "cdam_fast.evaluation",
        "cdam_fast.evaluation.ahead",
        "cdam_fast.kernels",
        "cdam_fast.models",
        "cdam_fast.segmentation",
    ],
    package_dir={"cdam_fast": "cdam_fast", "cdam_fast.kernels": "kernels"},
)
