"""Packaging. The constraints file holds the versions that the tests run with."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = next(
    line.split('"')[1] for line in (HERE / "mrg_grpo" / "__init__.py").read_text().splitlines() if "__version__" in line
)

setup(
    name="mrg_grpo",
    version=VERSION,
    description="A from-scratch GRPO engine in plain PyTorch for clinically aligned medical report generation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "."},  # an editable install is then this folder itself, experiments included
    packages=find_packages(include=["mrg_grpo", "mrg_grpo.*"]),
    package_data={"mrg_grpo": ["embedded/base/*", "embedded/labeler/*", "view/assets/*"]},
    install_requires=["torch", "transformers>=5.23", "peft", "safetensors", "numpy", "pillow", "tqdm"],
    extras_require={
        "eval": ["pycocoevalcap"],  # METEOR needs Java
        "log": ["tensorboard"],
        "bench": ["trl>=1.16", "datasets", "matplotlib"],
        "dev": [
            "pytest",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
            "scikit-learn",
            "pycocoevalcap",
            "selenium",
            "tensorboard",
            "matplotlib",
            "scipy",
        ],
    },
    entry_points={"console_scripts": ["mrg-grpo = mrg_grpo.cli:main"]},
)
