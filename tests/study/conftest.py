"""A study small enough for tests: two objectives x two seeds of a tiny model."""

import pytest

CONFIG = """
from configs.studies import default


def get_config():
  config = default.get_default_study()
  config.title = 'Tiny'
  config.data_dir = {data_dir!r}
  config.groups.tiny = default.group(
    'configs/digits_cnn.py',
    objectives=('softmax', 'sigmoid'),
    num_seeds=2,
    overrides=(
      'model.width=4',
      'batch_size=64',
      'num_epochs=2',
      'eval_every_epochs=1.0',
    ),
    ood=False,
    transfer=('digits:holdout',),
  )
  return config
"""


@pytest.fixture(scope='session')
def tiny_study_file(digits_dir, tmp_path_factory):
  """Path of the study's configuration."""
  path = tmp_path_factory.mktemp('configs') / 'tiny.py'
  path.write_text(CONFIG.format(data_dir=digits_dir))
  return path
