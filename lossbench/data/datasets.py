"""The data sets that lossbench knows, and opening them with clear errors."""

import dataclasses
import difflib
import os
import pathlib

import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data import digits  # noqa: F401  (registers the TFDS builder)

# TensorFlow reads and decodes on the host; the accelerators are JAX's.
tf.config.set_visible_devices([], 'GPU')
tfds.disable_progress_bar()


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """What lossbench must know of a data set beyond what TFDS tells.

  Attributes:
    tfds_name: name of the TFDS builder.
    test_split: split that final numbers are reported on.
    offline: TFDS can make it without a download, so we do when it is missing.
    manual: what must be fetched by hand before TFDS can prepare it, or ''.
  """

  tfds_name: str
  test_split: str = 'test'
  offline: bool = False
  manual: str = ''


_DATASETS = {
  'digits': DatasetSpec('digits', offline=True),
  'cifar10': DatasetSpec('cifar10'),
  'cifar100': DatasetSpec('cifar100'),
  'caltech101': DatasetSpec('caltech101'),
  # TFDS calls the 50,000 images that everybody tests on 'validation'.
  'imagenet2012': DatasetSpec(
    'imagenet2012',
    test_split='validation',
    manual='ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org)',
  ),
}


def known_datasets() -> tuple[str, ...]:
  """The names of all data sets, sorted."""
  return tuple(sorted(_DATASETS))


def get_dataset_spec(name: str) -> DatasetSpec:
  """Looks a data set up; an unknown name raises ValueError with the known."""
  if name in _DATASETS:
    return _DATASETS[name]
  close = difflib.get_close_matches(name, _DATASETS, n=1)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  raise ValueError(
    f'Unknown dataset {name!r}. Known: {", ".join(known_datasets())}.{hint}'
  )


def resolve_data_dir(data_dir: str | None) -> str:
  """The directory that TFDS will look in: the argument, the environment's or
  TFDS's own default."""
  return os.path.expanduser(
    data_dir
    or os.environ.get('TFDS_DATA_DIR')
    or str(pathlib.Path('~') / 'tensorflow_datasets')
  )


def open_dataset(
  name: str, *, data_dir: str | None, num_classes: int | None = None
) -> tfds.core.DatasetBuilder:
  """Opens a prepared data set; never starts a download.

  Args:
    name: one of `known_datasets()`.
    data_dir: TFDS directory; None for $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    num_classes: what the configuration believes, checked if given.

  Returns:
    The TFDS builder.

  Raises:
    ValueError: if the name is unknown or the number of classes disagrees.
    FileNotFoundError: if the data set is not in `data_dir`; the message says
      where it was looked for and how to prepare it.
  """
  spec = get_dataset_spec(name)
  data_dir = resolve_data_dir(data_dir)
  builder = tfds.builder(spec.tfds_name, data_dir=data_dir)
  if not builder.info.splits:
    if not spec.offline:
      manual = ''
      if spec.manual:
        manual = (
          f' First put {spec.manual} into '
          f'{os.path.join(data_dir, "downloads", "manual")}.'
        )
      raise FileNotFoundError(
        f'Dataset {name!r} is not in {os.path.join(data_dir, spec.tfds_name)}. '
        'Point --config.data_dir (or TFDS_DATA_DIR) at a directory that TFDS '
        'has prepared, or prepare it: python -c "import tensorflow_datasets '
        f"as tfds; tfds.builder('{spec.tfds_name}', data_dir='{data_dir}')"
        f'.download_and_prepare()"{manual}'
      )
    builder = _prepare_offline(builder, data_dir=data_dir)
  found = builder.info.features['label'].num_classes
  if num_classes is not None and found != num_classes:
    raise ValueError(
      f'Dataset {name!r} has {found} classes, but '
      f'--config.num_classes={num_classes}.'
    )
  return builder


def _prepare_offline(builder, *, data_dir):
  try:
    builder.download_and_prepare()
  except OSError as error:
    # Where several processes start at once, the first to finish wins and the
    # others fail to put the same files in the same place.
    winner = tfds.builder(builder.name, data_dir=data_dir)
    if winner.info.splits:
      return winner
    raise OSError(
      f'Dataset {builder.name!r} cannot be written to {builder.data_dir}: '
      f'{error}. Point --config.data_dir (or TFDS_DATA_DIR) at a directory '
      'that you may write to.'
    ) from error
  return builder


def num_examples(builder: tfds.core.DatasetBuilder, split: str) -> int:
  """The number of examples in a split, e.g. 'train[:90%]'.

  Raises:
    ValueError: if the split is unknown, malformed or empty; lists the splits.
  """
  try:
    count = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    raise ValueError(
      f'Dataset {builder.name!r} has no split {split!r}. It has: '
      f'{", ".join(sorted(builder.info.splits))}, and slices of them such as '
      "'train[:90%]'."
    ) from error
  if count <= 0:  # TFDS counts 'train[10:5]' as -5
    raise ValueError(f'Split {split!r} of {builder.name!r} has no examples.')
  return count


def holdout_splits(
  builder: tfds.core.DatasetBuilder, *, num_holdout: int
) -> tuple[str, str]:
  """Cuts the holdout off the end of train; returns (train, holdout) splits.

  `num_holdout` = 0 keeps all of train, for a final run; the second split is
  then ''.

  Raises:
    ValueError: if the holdout would leave nothing to train on.
  """
  total = num_examples(builder, 'train')
  if not 0 <= num_holdout < total:
    raise ValueError(
      f'--config.num_holdout must be in [0, {total}), the size of '
      f'{builder.name!r} train; got {num_holdout}.'
    )
  if num_holdout == 0:
    return 'train', ''
  cut = total - num_holdout
  return f'train[:{cut}]', f'train[{cut}:]'
