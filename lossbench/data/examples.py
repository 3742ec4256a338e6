"""Which examples are meant: a split of a data set, less what cannot be decoded."""

import dataclasses

import jax
import ml_collections
import tensorflow_datasets as tfds

from lossbench.data import bad_images, datasets, preprocess
from lossbench.data.folder_names import parse_folder
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import create_printer


@dataclasses.dataclass(frozen=True)
class Examples:
  """Examples of a prepared data set.

  Attributes:
    builder: of the data set.
    split: of it, as TFDS writes them, e.g. 'train[:45000]'.
    bad_ids: TFDS ids of images to leave out, in order.
    num_examples: without these.

  Raises:
    ValueError: if the split is unknown, malformed or empty; lists the splits.
  """

  builder: tfds.core.DatasetBuilder
  split: str
  bad_ids: tuple[str, ...] = ()
  num_examples: int = dataclasses.field(init=False)

  def __post_init__(self):
    total = datasets.num_examples(self.builder, self.split)
    object.__setattr__(self, 'num_examples', total - len(self.bad_ids))


def build_examples(
  config: ml_collections.ConfigDict,
  builder: tfds.core.DatasetBuilder,
  split: str,
  *,
  run: RunDirectory,
  dataset: str | None = None,
) -> Examples:
  """The examples of a split that a run can use.

  With --config.on_bad_image=skip the first call decodes the whole split, reports
  every bad image with its id and writes bad_images.json into the run directory;
  later ones read it. The file may be there before the directory is claimed, and
  outlive a configuration that is refused: what it says depends on the images
  alone, and on their size where they are not resized.

  Args:
    config: of the run; says how the images are read.
    builder: of the data set.
    split: a TFDS split.
    run: its directory.
    dataset: the data set's name; None: the run's own.

  Raises:
    ValueError: if the split is unknown, a file damaged, or no image usable.
    OSError: if the directory cannot be written to.
  """
  everything = Examples(builder, split)
  if config.on_bad_image != 'skip':
    return everything
  path = run.path / 'bad_images.json'
  known = {}
  if path.exists():
    known = read_json(path, remedy='Delete it: the images are looked at again.')
  name = dataset or config.dataset
  # Images of folders are mended and removed, those of TFDS are not.
  identity = f' ({datasets.identity(builder)})' if parse_folder(name) else ''
  key = f'{name}{identity} {split}'
  if not config.resize_images:
    key += f' of {config.image_size} x {config.image_size} pixels'
  if key not in known:
    if jax.process_index() == 0:
      run.make()
    LOGGER.info('Looking for images of %s that cannot be decoded.', key)
    known[key] = bad_images.find_bad_images(
      builder,
      split=split,
      image_fn=preprocess.build_eval_image_fn(config),
      on_progress=create_printer('images', everything.num_examples),
    )
    if jax.process_index() == 0:
      write_json(path, known)
  for image_id, reason in known[key].items():
    LOGGER.warning('Left out: image %s: %s', image_id, reason)
  return dataclasses.replace(everything, bad_ids=tuple(sorted(known[key])))
