"""The labels of examples, without their images."""

import numpy as np
import tensorflow_datasets as tfds

from lossbench.data.bad_images import damaged_files_named
from lossbench.data.datasets import label_feature
from lossbench.data.examples import Examples
from lossbench.data.folders import FolderBuilder


def read_labels(examples: Examples) -> np.ndarray:
  """The label of every usable example, int64 [n]; no image is decoded.

  Args:
    examples: of a data set.

  Raises:
    ValueError: if a file is damaged; names it.
  """
  builder, split = examples.builder, examples.split
  if isinstance(builder, FolderBuilder):
    places = builder.positions(split, without=examples.bad_ids)
    return builder.read_labels(places)
  bad = set(examples.bad_ids)
  name = label_feature(builder)
  records = builder.as_dataset(
    split=split,
    decoders=tfds.decode.PartialDecoding({name: True}),
    read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
  )
  with damaged_files_named(builder, split):
    return np.array(
      [
        record[name]
        for record in records.as_numpy_iterator()
        if record['tfds_id'].decode() not in bad
      ],
      np.int64,
    )
