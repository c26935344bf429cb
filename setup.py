"""Packaging. The constraints file holds the versions that the tests run with."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = next(
    line.split('"')[1] for line in (HERE / "mrg_grpo" / "__init__.py").read_text().splitlines() if "__version__" in line
)
# Stands for the public address, which is not known yet. The documentation site reads it here.
URL = "https://example.org/mrg_grpo"
# From the oldest version tried to below the next that may break us. transformers and peft have no promise between minor
# versions for what tests/test_dependencies.py lists (masks, attention, image processors, the inside of a LoRA layer),
# nor has torch for oneDNN's packed products.
CORE = [
    "torch>=2.11,<2.15",
    "transformers>=5.23,<5.24",
    "peft>=0.21,<0.22",
    "safetensors>=0.8,<1",
    "numpy>=2.4,<3",
    "pillow>=12,<14",
    "tqdm>=4.70,<5",
]
DEV = [
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "ruff",
    "mypy",
    "import-linter",
    "scikit-learn",
    "bitsandbytes>=0.50,<0.51",
    "pyarrow>=26,<27",
    "openpyxl>=3.1,<3.2",
    "pycocoevalcap",
    "selenium",
    "tensorboard",
    "wandb>=0.31,<0.32",
    "matplotlib",
    "scipy",
    "mkdocs-material",
    "mkdocstrings[python]",
    "proselint",
    "pre-commit",
]

setup(
    name="mrg_grpo",
    version=VERSION,
    description="A from-scratch GRPO engine in plain PyTorch for clinically aligned medical report generation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=URL,
    project_urls={"Source": URL, "Changelog": f"{URL}/blob/main/CHANGELOG.md"},
    keywords="GRPO RLHF LoRA vision-language radiology report-generation chest-X-ray CheXbert PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    package_dir={"": "."},  # an editable install is then this folder itself, experiments included
    packages=find_packages(include=["mrg_grpo", "mrg_grpo.*"]),
    package_data={"mrg_grpo": ["py.typed", "embedded/base/*", "embedded/labeler/*", "view/assets/*"]},
    install_requires=CORE,
    extras_require={
        "eval": ["pycocoevalcap"],  # METEOR needs Java
        "tensorboard": ["tensorboard"],
        "trackio": ["trackio>=0.43,<0.44"],  # it wants pillow below 13
        "wandb": ["wandb>=0.31,<0.32"],
        "hub": ["huggingface_hub>=2,<3"],  # of `export`; transformers brings it
        "quant": ["bitsandbytes>=0.50,<0.51"],
        "radeval": ["radeval>=2.2.1,<2.3"],  # what mrg_grpo/rewards/field.py says of it was read from 2.2.1
        "tables": ["pyarrow>=26,<27"],
        "xlsx": ["openpyxl>=3.1,<3.2"],
        "bench": ["trl>=1.16", "datasets", "matplotlib"],
        "dev": DEV,
    },
    entry_points={"console_scripts": ["mrg-grpo = mrg_grpo.cli:main"]},
)
