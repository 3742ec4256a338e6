"""The one evaluation loop: of training, of every binary and of studies.

A pass over a split updates a suite of accumulators on every device and can
collect outputs for every example. Nothing is dropped and nothing counted twice:
padding is masked, sums are divided once at the end, and so the results are the
same on any number of devices and for any batch size.
"""

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lossbench import build, devices
from lossbench.measurements import (
  Accumulators,
  ModelOutputs,
  create_measurements,
  spatial_mean,
)
from lossbench.metrics.accumulators import reduce_devices
from lossbench.metrics.cka import to_minibatches, u_centered_grams
from lossbench.models import Classifier
from lossbench.objectives import Objective
from lossbench.processes import concatenate_processes, concatenate_rows

_ID_BYTES = 128  # TFDS ids are file names and numbers, far shorter
_IN_FLIGHT = 2  # batches whose outputs the host has not fetched yet

# What the compiled step depends on; the objective is an argument of it.
_STEP_FIELDS = (
  'compute_dtype',
  'image_size',
  'model',
  'num_classes',
  'pixel_mean',
  'pixel_std',
)


# What the run's own way from bytes to pixels depends on.
_IMAGE_FIELDS = ('image_size', 'pixel_mean', 'resize_images', 'resize_ratio')


@dataclasses.dataclass(frozen=True)
class Collect:
  """What a pass keeps of examples; this alone grows with the split.

  Attributes:
    logits: [N, K] float32, raw outputs of the output layer.
    features: [N, M] float32, the penultimate layer.
    pooled: `spatial_mean` of every endpoint, 'pooled/<endpoint>' [N, C].
    gram_size: G > 0 keeps of every endpoint 'gram/<endpoint>' [N, G], each
      example's row of the U-centred Gram matrix of its minibatch of G
      consecutive examples, all that unbiased CKA of whole feature maps needs.
    num_sampled: > 0 keeps 'features' and 'logits' of at most so many examples,
      apart from the rest: those whose ids have the smallest CRC-32, the same
      ones in every run and whatever the order and the batches.
  """

  logits: bool = False
  features: bool = False
  pooled: bool = False
  gram_size: int = 0
  num_sampled: int = 0


NOTHING = Collect()


@dataclasses.dataclass(frozen=True)
class Collected:
  """What was kept of real examples.

  Attributes:
    ids: [N] bytes, TFDS's example ids.
    labels: [N] int32.
    arrays: name -> [N, ...] float32.
  """

  ids: np.ndarray
  labels: np.ndarray
  arrays: dict[str, np.ndarray]

  def __len__(self):
    return len(self.ids)

  def take(self, rows: np.ndarray) -> Self:
    """Some of the examples, by index or mask."""
    return Collected(
      ids=self.ids[rows],
      labels=self.labels[rows],
      arrays={name: values[rows] for name, values in self.arrays.items()},
    )

  def sorted_by_id(self) -> Self:
    """The same in ascending order of the ids, whatever order files came in."""
    return self.take(np.argsort(self.ids, kind='stable'))


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

  return jax.pmap(
    eval_step,
    axis_name=devices.AXIS,
    in_axes=(0, None, 0, 0),
    donate_argnums=2,
  )


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
    _endpoint_sizes(backbone, build.image_shape(config), config.num_classes),
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


def _endpoint_sizes(backbone, image_shape, num_classes) -> dict[str, int]:
  sizes = {}

  def record(images):
    endpoints, _ = backbone.init_with_output(
      jax.random.key(0), images, train=False
    )
    # Filled here because what eval_shape returns is sorted by name, and the
    # forward order is what a reader wants to see.
    sizes.update({name: x.shape[-1] for name, x in endpoints.items()})

  jax.eval_shape(record, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return {**sizes, 'logits': num_classes}


def endpoint_names(config: ml_collections.ConfigDict) -> list[str]:
  """The names of a model's endpoints, in forward order."""
  return list(
    _endpoint_sizes(
      build.build_backbone(config),
      build.image_shape(config),
      config.num_classes,
    )
  )


def check_batch_size(batch_size: int, *, gram_size: int = 0):
  """Raises ValueError unless a global batch divides over all devices."""
  num_devices = jax.device_count()
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
    builder: of the data set.
    split: a TFDS split, e.g. 'test'.
    suite: of measurements; see `measurements`.
    collect: what to keep of examples.
    image_fn: encoded bytes -> uint8 [H, W, C]; None takes the run's own.
    batch_size: global; None takes the configuration's.
    bad_ids: TFDS ids of images to leave out.
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
    builder,
    *,
    split: str,
    suite: str = 'predictions',
    collect: Collect = NOTHING,
    image_fn: Callable | None = None,
    batch_size: int | None = None,
    bad_ids: Sequence[str] = (),
    own_labels: bool = True,
    sharded: bool = True,
  ):
    from lossbench.data import datasets, pipeline, preprocess

    self._objective = build.build_objective(config)
    self.num_examples = datasets.num_examples(builder, split) - len(bad_ids)
    self._batch_size = batch_size or config.eval_batch_size
    check_batch_size(self._batch_size, gram_size=collect.gram_size)
    self._eval_step, self._measurements = _compiled(
      build.pack_fields(config, _STEP_FIELDS), suite, collect
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
        builder,
        split=split,
        batch_size=self._batch_size,
        image_fn=image_fn or preprocess.build_eval_image_fn(config),
        bad_ids=bad_ids,
        process_index=share[0],
        process_count=share[1],
      )

    self._read = read
    self._batches: Sequence[dict] | None = None
    if config.data_on_device and image_fn is None:
      self._batches = _decoded.get(
        (
          str(builder.data_path),
          split,
          self._batch_size,
          tuple(bad_ids),
          share,
          build.pack_fields(config, _IMAGE_FIELDS),
        ),
        read,
      )

  def scalars(self, state) -> dict[str, float]:
    """Metrics of a replicated train state, by name."""
    accumulators = self.run(state.eval_variables).accumulators
    return {name: value.compute() for name, value in accumulators.items()}

  def run(
    self,
    variables,
    *,
    on_progress: Callable[[int], Any] = lambda num_done: None,
  ) -> Pass:
    """One pass over the split.

    Args:
      variables: 'params' and 'batch_stats' with a leading device axis.
      on_progress: called with the number of examples done.

    Raises:
      ValueError: if a label is not in [0, num_classes).
    """
    from lossbench.data import pipeline

    accumulators = devices.replicate(self._measurements.empty_fn())
    keeper = _Keeper(self._collect, self.num_examples, gathered=self._sharded)
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
          keeper.keep(_fetch(*in_flight.popleft()))
      done += self._batch_size
      on_progress(min(done, self.num_examples))
    while in_flight:
      keeper.keep(_fetch(*in_flight.popleft()))
    merged = reduce_devices(concatenate_processes(accumulators))
    merged = {name: merged[name] for name in self._measurements.empty_fn()}
    return Pass(merged, *keeper.finish())


class _Keeper:
  """Puts the fetched rows of one pass where they belong."""

  def __init__(self, collect: Collect, num_examples: int, *, gathered: bool):
    self._collect = collect
    self._gathered = gathered
    self._kept: list[Collected] = []
    self._sampled: list[Collected] = []
    # A fifth more than is wanted, for the hashes are only nearly uniform.
    share = 1.2 * collect.num_sampled / num_examples
    self._threshold = int(min(1.0, share) * 2**32)

  def keep(self, rows: Collected):
    if self._collect.num_sampled:
      chosen = _hashes(rows.ids) < self._threshold
      wanted = {name: rows.arrays[name] for name in ('features', 'logits')}
      self._sampled.append(
        dataclasses.replace(rows, arrays=wanted).take(chosen)
      )
    arrays = {
      name: values
      for name, values in rows.arrays.items()
      if (name != 'logits' or self._collect.logits)
      and (name != 'features' or self._collect.features)
    }
    if arrays:
      self._kept.append(dataclasses.replace(rows, arrays=arrays))

  def finish(self) -> tuple[Collected | None, Collected | None]:
    sample = _join(self._sampled, gathered=self._gathered)
    if sample is not None:
      order = np.lexsort((sample.ids, _hashes(sample.ids)))
      sample = sample.take(order[: self._collect.num_sampled]).sorted_by_id()
    return _join(self._kept, gathered=self._gathered), sample


def _hashes(ids: np.ndarray) -> np.ndarray:
  return np.array([zlib.crc32(name) for name in ids], np.int64)


def _fetch(ids, batch, rows) -> Collected:
  """This process's real rows of a batch."""
  if max(len(name) for name in ids) > _ID_BYTES:
    raise ValueError(f'An example id is longer than {_ID_BYTES} bytes.')
  return Collected(
    ids=np.array(list(ids), dtype=f'S{_ID_BYTES}'),
    labels=batch['label'],
    arrays={
      name: np.asarray(value).reshape(len(ids), *value.shape[2:])
      for name, value in rows.items()
    },
  ).take(batch['mask'] > 0)


def _concatenate(parts: list[Collected], name: str) -> np.ndarray:
  """All rows of an array, which the parts give up: memory for one copy."""
  first = parts[0].arrays[name]
  whole = np.empty((sum(map(len, parts)), *first.shape[1:]), first.dtype)
  start = 0
  for part in parts:
    rows = part.arrays.pop(name)
    whole[start : start + len(rows)] = rows
    start += len(rows)
  return whole


def _join(parts: list[Collected], *, gathered: bool) -> Collected | None:
  """The rows of all batches, gathered from all processes or this one's."""
  if not parts:
    return None
  whole = {name: _concatenate(parts, name) for name in list(parts[0].arrays)}
  ids = np.concatenate([part.ids for part in parts])
  # As numbers, which processes can exchange.
  whole['id'] = ids.view(np.uint8).reshape(len(ids), _ID_BYTES)
  whole['label'] = np.concatenate([part.labels for part in parts])
  if gathered:
    whole = concatenate_rows(whole)
  ids = np.ascontiguousarray(whole.pop('id')).view(f'S{_ID_BYTES}')[:, 0]
  return Collected(ids=ids, labels=whole.pop('label'), arrays=whole)
