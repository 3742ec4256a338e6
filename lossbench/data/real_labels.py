"""The reassessed labels of ImageNet's validation images (Beyer et al. 2020)."""

import numpy as np
import tensorflow_datasets as tfds

from lossbench.data.bad_images import damaged_files_named


def read_real_labels(
  builder: tfds.core.DatasetBuilder, split: str
) -> tuple[np.ndarray, np.ndarray]:
  """All labels that raters gave each image; no image is decoded.

  Args:
    builder: of imagenet2012_real, prepared.
    split: of it.

  Returns:
    ids [N] bytes, TFDS's as in `pipeline.eval_batches`, ascending; and
    is_label [N, K] bool, K the number of ImageNet's classes. A row may be all
    False: raters found none of the classes.

  Raises:
    ValueError: if a file of the data set is damaged; names it.
  """
  num_classes = builder.info.features['real_label'].feature.num_classes
  records = builder.as_dataset(
    split=split,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
  )
  ids, rows = [], []
  with damaged_files_named(builder, split):
    for record in records.as_numpy_iterator():
      row = np.zeros(num_classes, bool)
      row[record['real_label']] = True
      ids.append(record['tfds_id'])
      rows.append(row)
  order = np.argsort(np.array(ids, dtype=bytes), kind='stable')
  return np.array(ids, dtype=bytes)[order], np.stack(rows)[order]
