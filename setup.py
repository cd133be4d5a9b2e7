"""Metadata of the package; settings of the tools are in pyproject.toml."""

import os
import pathlib
import re

import setuptools

# Address of the repository, for whoever publishes the package: where the README is shown elsewhere,
# its links lead there. Without it they stay as they are.
PROJECT_URL = os.environ.get("PROJECT_URL", "").rstrip("/")

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tf_hessian/__init__.py").read_text())[1]


def long_description(readme: pathlib.Path = HERE / "README.md", url: str = PROJECT_URL) -> str:
  """Returns the README, with links that lead into the repository from elsewhere."""
  text = readme.read_text(encoding="utf-8") if readme.exists() else ""
  if not url:
    return text
  text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:|#)", rf"\g<1>{url}/raw/main/", text)
  return re.sub(r"(?<!!)(\[[^\]]*\]\()(?!\w+:|#)", rf"\g<1>{url}/blob/main/", text)


setuptools.setup(
  name="tf_hessian",
  version=VERSION,
  description="The eigenvalue density of the Hessian of a neural network's training loss",
  long_description=long_description(),
  long_description_content_type="text/markdown",
  author="The tf_hessian authors",
  license="Apache-2.0",
  keywords=[
    *("hessian", "curvature", "eigenvalue density", "spectral density", "loss landscape"),
    *(
      "sharpness",
      "lanczos",
      "stochastic Lanczos quadrature",
      "gauss-newton",
      "fisher information",
    ),
    *("keras", "tensorflow", "deep learning"),
  ],
  classifiers=[
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Framework :: Jupyter",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.10",
    "Programming Language :: Python :: 3.11",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Topic :: Scientific/Engineering :: Mathematics",
    "Typing :: Typed",
  ],
  url=PROJECT_URL or None,
  project_urls={
    "Documentation": f"{PROJECT_URL}/blob/main/docs/index.md",
    "Changes": f"{PROJECT_URL}/blob/main/CHANGELOG.md",
    "Issues": f"{PROJECT_URL}/issues",
  }
  if PROJECT_URL
  else {},
  python_requires=">=3.10",
  # Digits and configs lie beside the package in the repository, and inside it once installed.
  packages=[
    *setuptools.find_packages(include=["tf_hessian*"]),
    "tf_hessian.third_party.mnist",
    "tf_hessian.configs",
  ],
  package_dir={
    "tf_hessian.third_party.mnist": "third_party/mnist",
    "tf_hessian.configs": "configs",
  },
  entry_points={"console_scripts": ["tf-hessian = tf_hessian.__main__:main"]},
  package_data={
    "tf_hessian": ["py.typed"],
    "tf_hessian.third_party.mnist": ["mnist_1000.npz", "LICENSE", "README.md"],
  },
  # Lower bounds are the oldest versions that the tests pass with, all at once, on Python 3.10: see
  # make test-oldest.
  install_requires=[
    "absl-py>=2.1.0",
    "filelock>=3.12.0",
    "keras>=3.8.0",
    "matplotlib>=3.9.0",
    "ml_collections>=1.1.0",
    "numpy>=2.0.0",
    "psutil>=5.9.0",
    "scipy>=1.14.0",
    "tensorflow>=2.18.0",
    "tensorflow-datasets>=4.9.7",
    "importlib_resources>=6.0.0",  # of tensorflow-datasets, which does not declare it
    "threadpoolctl>=3.5.0",
    "tqdm>=4.66.0",
  ],
  extras_require={
    "docs": [
      "ipykernel>=7.4.0",
      "mkdocs==1.6.*",  # the theme is for this version
      "mkdocs-material==9.*",
      "mkdocstrings[python]>=1.0.8",
      "nbclient>=0.11.0",
    ],
    "slow": ["keras-hub>=0.32.0"],
    "tensorboard": ["tensorboard>=2.18.0"],
    "test": [
      "mypy>=2.4.1",
      "pytest>=8.0.0",
      "pytest-xdist>=3.6.1",
      "ruff==0.17.*",
      "tensorboard>=2.18.0",
    ],
  },
)
