"""The one evaluation loop: of training, of every binary and of studies.

A pass over a split updates a suite of accumulators on every device and can
collect outputs for every example. Nothing is dropped and nothing counted twice:
padding is masked, sums are divided once at the end, and so the results are the
same on any number of devices and for any batch size.
"""

import collections
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lossbench import build
from lossbench.evaluation.collected import (
  NOTHING,
  Collect,
  Collected,
  Keeper,
  fetch_batch,
)
from lossbench.evaluation.predictions import Accumulators
from lossbench.evaluation.suites import (
  ModelOutputs,
  create_measurements,
  spatial_mean,
)
from lossbench.metrics.accumulators import reduce_devices
from lossbench.metrics.cka_minibatches import to_minibatches, u_centered_grams
from lossbench.models import Classifier
from lossbench.objectives import Objective
from lossbench.runtime import devices

_IN_FLIGHT = 2  # batches whose outputs the host has not fetched yet

# What the compiled step depends on; the objective is an argument of it.
_STEP_FIELDS = (
  'compute_dtype',
  'downscale',
  'image_size',
  'model',
  'num_classes',
  'pixel_mean',
  'pixel_std',
  'precision',
)


# What the run's own way from bytes to pixels depends on.
_IMAGE_FIELDS = (
  'eval_crop',
  'eval_pixels',
  'image_size',
  'pixel_mean',
  'resize_antialias',
  'resize_images',
  'resize_method',
  'resize_ratio',
)


def _collect(collect: Collect, outputs: ModelOutputs) -> dict[str, jax.Array]:
  endpoints, rows = outputs.endpoints, {}
  if collect.logits or collect.num_sampled:
    rows['logits'] = endpoints['logits'].astype(jnp.float32)
  if collect.features or collect.num_sampled:
    rows['features'] = endpoints['features']
  for name, values in endpoints.items():
    if collect.pooled:
      rows[f'pooled/{name}'] = spatial_mean(values)
    if collect.gram_size:
      minibatches = functools.partial(
        to_minibatches, minibatch_size=collect.gram_size
      )
      grams = u_centered_grams(
        minibatches(values), minibatches(outputs.mask) > 0
      )
      rows[f'gram/{name}'] = grams.reshape(-1, collect.gram_size)
  return rows


def _create_eval_step(backbone, *, num_classes, normalize_fn, update_fn, keep):
  def eval_step(variables, objective: Objective, accumulators, batch):
    model = Classifier(
      backbone, objective.output_layer(num_classes=num_classes)
    )
    endpoints = model.apply(
      variables, normalize_fn(batch['image']), train=False
    )
    outputs = ModelOutputs(
      endpoints=endpoints,
      log_probs=objective.log_probs(endpoints['logits']),
      labels=batch['label'],
      mask=batch['mask'],
      kernel=variables['params']['output_layer']['kernel'],
    )
    return update_fn(accumulators, outputs), _collect(keep, outputs)

  return devices.pmap(eval_step, in_axes=(0, None, 0, 0), donate_argnums=2)


@functools.lru_cache(maxsize=64)
def _compiled(fields: str, suite: str, keep: Collect):
  """The pmapped step and its measurements, once for equal configurations.

  So 72 runs of one architecture share a step; objectives of other parts are
  traced into it as they come.
  """
  config = build.unpack_fields(fields)
  backbone = build.build_backbone(config)
  measurements = create_measurements(
    suite,
    _endpoint_sizes(backbone, config),
    num_classes=config.num_classes,
  )
  step = _create_eval_step(
    backbone,
    num_classes=config.num_classes,
    normalize_fn=build.build_normalize_fn(config),
    update_fn=measurements.update_fn,
    keep=keep,
  )
  return step, measurements


def _endpoint_sizes(backbone, config) -> dict[str, int]:
  sizes = {}
  normalize_fn = build.build_normalize_fn(config)

  def record(images):
    endpoints, _ = backbone.init_with_output(
      jax.random.key(0), normalize_fn(images), train=False
    )
    # Filled here because what eval_shape returns is sorted by name, and the
    # forward order is what a reader wants to see.
    sizes.update({name: x.shape[-1] for name, x in endpoints.items()})

  shape = (1, *build.image_shape(config))
  jax.eval_shape(record, jax.ShapeDtypeStruct(shape, jnp.uint8))
  return {**sizes, 'logits': config.num_classes}


def endpoint_names(config: ml_collections.ConfigDict) -> list[str]:
  """The names of a model's endpoints, in forward order."""
  return list(_endpoint_sizes(build.build_backbone(config), config))


def check_batch_size(batch_size: int, *, gram_size: int = 0):
  """Raises ValueError unless a global batch divides over all devices."""
  num_devices = devices.count()
  unit = num_devices * max(1, gram_size)
  if batch_size < 1 or batch_size % unit:
    reason = f'the {num_devices} devices'
    if gram_size:
      reason += f' x minibatches of {gram_size} examples'
    raise ValueError(
      f'--batch_size={batch_size} is not divisible by {reason}. Take for '
      f'example {max(unit, batch_size - batch_size % unit)}.'
    )


class _DecodedSplits:
  """Splits of data sets that fit into memory, decoded once for all runs.

  Data that fit on a device fit beside it. The least recently used go first.

  Args:
    max_bytes: of all images that are kept.
  """

  def __init__(self, max_bytes: int = 2**30):
    self._max_bytes = max_bytes
    self._splits: dict[Hashable, list[dict[str, np.ndarray]]] = {}

  def get(
    self, key: Hashable, read: Callable[[], Iterable[dict[str, np.ndarray]]]
  ) -> list[dict[str, np.ndarray]]:
    """The batches of a key, from `read` if they are not kept."""
    batches = self._splits.pop(key, None)
    self._splits[key] = list(read()) if batches is None else batches
    while len(self._splits) > 1 and self._num_bytes() > self._max_bytes:
      del self._splits[next(iter(self._splits))]
    return self._splits[key]

  def _num_bytes(self) -> int:
    return sum(
      batch['image'].nbytes
      for batches in self._splits.values()
      for batch in batches
    )


_decoded = _DecodedSplits()


class Pass(NamedTuple):
  """The results of one pass, the same on every process.

  Attributes:
    accumulators: summed over devices and processes, on the host.
    collected: of every example, in the order of reading; None if nothing was.
    sample: of the sampled examples, ordered by id; None without a sample.
  """

  accumulators: Accumulators
  collected: Collected | None
  sample: Collected | None


class Evaluator:
  """Passes of a model over one split; compiled once for many states.

  Args:
    config: of the run.
    examples: of the split, `lossbench.data.examples.Examples`.
    suite: of measurements; see `measurements`.
    collect: what to keep of examples.
    image_fn: encoded bytes -> [H, W, C]; None takes the run's own.
    preprocessing: what tells this `image_fn` from others of the run.
    batch_size: global; None takes the configuration's.
    own_labels: labels are the run's classes and are checked; False for data
      sets whose labels mean something else.
    sharded: processes share the examples out; else each sees them all, for
      what depends on which examples are together. Only without measurements.

  Raises:
    ValueError: if the split is unknown or the batch size does not divide.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    examples,
    *,
    suite: str = 'predictions',
    collect: Collect = NOTHING,
    image_fn: Callable | None = None,
    preprocessing: Hashable = None,
    batch_size: int | None = None,
    own_labels: bool = True,
    sharded: bool = True,
  ):
    from lossbench.data import datasets, pipeline, preprocess

    self._objective = devices.broadcast(build.build_objective(config))
    self.num_examples = examples.num_examples
    self._batch_size = batch_size or config.eval_batch_size
    check_batch_size(self._batch_size, gram_size=collect.gram_size)
    self._eval_step, self._measurements = _compiled(
      build.pack_fields(config, _STEP_FIELDS),
      suite,
      collect,
    )
    self._collect = collect
    self._sharded = sharded
    share = jax.process_index(), jax.process_count()
    if not sharded:
      if suite != 'nothing':
        raise ValueError(f'Suite {suite!r} would count every example often.')
      self._batch_size //= jax.process_count()
      share = 0, 1
    self._num_classes = config.num_classes if own_labels else None

    def read():
      return pipeline.eval_batches(
        examples,
        batch_size=self._batch_size,
        image_fn=image_fn or preprocess.build_eval_image_fn(config),
        process_index=share[0],
        process_count=share[1],
      )

    self._read = read
    self._batches: Sequence[dict] | None = None
    if config.data_on_device and (image_fn is None or preprocessing):
      self._batches = _decoded.get(
        (
          str(examples.builder.data_path),
          datasets.identity(examples.builder),
          examples.split,
          self._batch_size,
          examples.bad_ids,
          share,
          build.pack_fields(config, _IMAGE_FIELDS),
          preprocessing,
        ),
        read,
      )

  def run(
    self,
    variables,
    *,
    on_progress: Callable[[int], Any] = lambda num_done: None,
  ) -> Pass:
    """One pass over the split: `start`, and waits for it."""
    return self.start(variables, on_progress=on_progress)()

  def start(
    self,
    variables,
    *,
    on_progress: Callable[[int], Any] = lambda num_done: None,
  ) -> Callable[[], Pass]:
    """Gives the devices one pass over the split.

    Waits for them only where a batch's outputs are collected.

    Args:
      variables: 'params' and 'batch_stats' with a leading device axis; may be
        donated at once.
      on_progress: called with the number of examples done.

    Returns:
      What waits for the results and returns them; all processes call it at the
      same place.

    Raises:
      ValueError: if a label is not in [0, num_classes).
    """
    from lossbench.data import pipeline

    accumulators = devices.replicate(self._measurements.empty_fn())
    keeper = Keeper(self._collect, self.num_examples, gathered=self._sharded)
    in_flight: collections.deque = collections.deque()
    done = 0
    for batch in self._batches if self._batches is not None else self._read():
      batch = dict(batch)  # the cached one keeps its ids
      ids = batch.pop('id')
      if self._num_classes is not None:
        pipeline.check_labels(batch, num_classes=self._num_classes, ids=ids)
      accumulators, rows = self._eval_step(
        variables, self._objective, accumulators, devices.shard(batch)
      )
      if rows:
        in_flight.append((ids, batch, rows))
        if len(in_flight) > _IN_FLIGHT:
          keeper.keep(fetch_batch(*in_flight.popleft()))
      done += self._batch_size
      on_progress(min(done, self.num_examples))
    gathered = devices.gather(accumulators)
    names = list(self._measurements.empty_fn())

    def finish() -> Pass:
      while in_flight:
        keeper.keep(fetch_batch(*in_flight.popleft()))
      merged = reduce_devices(jax.device_get(gathered))
      return Pass({name: merged[name] for name in names}, *keeper.finish())

    return finish
