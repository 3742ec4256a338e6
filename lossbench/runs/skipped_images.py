"""Which images a run leaves out, found once and kept in its directory."""

import jax
import ml_collections

from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import create_printer


def skipped_ids(
  config: ml_collections.ConfigDict,
  builder,
  *,
  split: str,
  run: RunDirectory,
  dataset: str | None = None,
) -> tuple[str, ...]:
  """TFDS ids of the split's undecodable images, () unless they are skipped.

  The first call decodes the whole split, reports every bad image with its id
  and writes bad_images.json into the run directory; later ones read it.

  Args:
    config: of the run.
    builder: of the data set.
    split: a TFDS split.
    run: its directory.
    dataset: the data set's name; None: the run's own.
  """
  # Runs made before there was a choice lack the field, and raise.
  if 'on_bad_image' not in config or config.on_bad_image != 'skip':
    return ()
  from lossbench.data import bad_images, datasets, preprocess

  path = run.path / 'bad_images.json'
  known = read_json(path) if path.exists() else {}
  key = f'{dataset or config.dataset} {split}'
  if key not in known:
    LOGGER.info('Looking for images of %s that cannot be decoded.', key)
    known[key] = bad_images.find_bad_images(
      builder,
      split=split,
      image_fn=preprocess.build_eval_image_fn(config),
      on_progress=create_printer(
        'images', datasets.num_examples(builder, split)
      ),
    )
    if jax.process_index() == 0:
      write_json(path, known)
  for image_id, reason in known[key].items():
    LOGGER.warning('Left out: image %s: %s', image_id, reason)
  return tuple(sorted(known[key]))
