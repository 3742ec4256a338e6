"""Training data as the step wants it: from the host's stream or resident."""

import collections
import concurrent.futures
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from lossbench import build
from lossbench.data import device_augment, device_data
from lossbench.runtime import devices
from lossbench.train.step import InputFn

_PREFETCH = 2  # batches on their way to the devices


@dataclasses.dataclass(frozen=True)
class TrainInputs:
  """Where the batches of a run come from.

  Attributes:
    num_examples: in the training split.
    data: resident on every device with a leading device axis, or None.
    batch_shapes: of this process's batches.
    batches_fn: (start_step, num_steps) -> this process's batches from there
      on, [process batch, ...].
  """

  num_examples: int
  data: Any
  batch_shapes: dict[str, jax.ShapeDtypeStruct]
  batches_fn: Callable[[int, int], Iterator[dict[str, np.ndarray]]]


def build_input_fn(config: ml_collections.ConfigDict) -> InputFn:
  """What the compiled step does to a batch of these inputs; see `step`.

  Images that live on the device are looked up and augmented there; those that
  are streamed were augmented on the host.
  """
  normalize_fn = build.build_normalize_fn(config)

  def streamed_fn(batch, data, key, positions):
    del data, key, positions
    return normalize_fn(batch['image']), batch['label']

  def resident_fn(batch, data, key, positions):
    images = data['image'][batch['index']]
    if config.crop_padding or config.random_flip:
      images = device_augment.pad_crop_flip(
        images,
        key,
        positions,
        pad=config.crop_padding,
        flip=config.random_flip,
      )
    return normalize_fn(images), data['label'][batch['index']]

  return resident_fn if config.data_on_device else streamed_fn


def build_train_inputs(
  config: ml_collections.ConfigDict, examples
) -> TrainInputs:
  """Opens the training data in the way that the configuration asks for.

  Args:
    config: of the run.
    examples: to train on, `lossbench.data.examples.Examples`.
  """
  if config.data_on_device:
    return _build_resident_inputs(config, examples)
  return _build_streamed_inputs(config, examples)


def _rows(batch_size, shape, dtype) -> jax.ShapeDtypeStruct:
  local_size = batch_size // jax.process_count()
  return jax.ShapeDtypeStruct((local_size, *shape), dtype)


def _build_streamed_inputs(config, examples):
  from lossbench.data import pipeline, preprocess

  window = pipeline.shuffle_window(
    examples,
    shuffle_gib=config.shuffle_gib,
    process_count=jax.process_count(),
  )

  def batches_fn(start_step, num_steps):
    batches = pipeline.train_batches(
      examples,
      batch_size=config.batch_size,
      image_fn=preprocess.build_train_image_fn(config),
      check_image_fn=preprocess.build_eval_image_fn(config),
      seed=config.seed,
      window=window,
      start_step=start_step,
      num_steps=num_steps,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    for batch in batches:
      pipeline.check_labels(batch, num_classes=config.num_classes)
      yield batch

  return TrainInputs(
    num_examples=examples.num_examples,
    data=None,
    batch_shapes={
      'image': _rows(config.batch_size, build.image_shape(config), np.uint8),
      'label': _rows(config.batch_size, (), np.int32),
    },
    batches_fn=batches_fn,
  )


def _build_resident_inputs(config, examples):
  from lossbench.data import pipeline, preprocess

  images, labels = pipeline.load_examples(
    examples, image_fn=preprocess.build_eval_image_fn(config)
  )
  pipeline.check_labels({'label': labels}, num_classes=config.num_classes)

  def batches_fn(start_step, num_steps):
    return device_data.index_batches(
      num_examples=len(labels),
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=start_step,
      num_steps=num_steps,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )

  return TrainInputs(
    num_examples=len(labels),
    data=devices.replicate({'image': images, 'label': labels}),
    batch_shapes={'index': _rows(config.batch_size, (), np.int32)},
    batches_fn=batches_fn,
  )


def prefetch_to_devices(
  batches: Iterator[dict[str, np.ndarray]],
) -> Iterator[dict[str, jax.Array]]:
  """Splits batches over the local devices and sends them ahead of their use.

  Args:
    batches: arrays of shape [process batch, ...].

  Yields:
    Arrays of shape [devices, process batch / local devices, ...].
  """

  def send_next():
    batch = next(batches, None)
    return None if batch is None else devices.shard(batch)

  # In which this run's devices are found.
  context = contextvars.copy_context()
  with concurrent.futures.ThreadPoolExecutor(max_workers=1) as executor:
    waiting = collections.deque(
      executor.submit(context.run, send_next) for _ in range(_PREFETCH)
    )
    while (batch := waiting.popleft().result()) is not None:
      waiting.append(executor.submit(context.run, send_next))
      yield batch
