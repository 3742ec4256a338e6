"""The one evaluation loop: of training, of `evaluate` and of studies.

A pass over a split updates a dictionary of accumulators on every device and
can collect predictions. Nothing is dropped and nothing counted twice: padding
is masked, sums are divided once at the end, and so the results are the same on
any number of devices and for any batch size.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lossbench import build, devices
from lossbench.metrics.accumulators import Accumulator, reduce_devices
from lossbench.metrics.accuracy import Accuracy
from lossbench.metrics.calibration import (
  ExpectedCalibrationError,
  NegativeLogLikelihood,
)
from lossbench.metrics.class_separation import ClassSeparation
from lossbench.metrics.sparsity import ActivationSparsity
from lossbench.objectives import Objective
from lossbench.processes import concatenate_processes

_ID_BYTES = 128  # TFDS ids are file names and numbers, far shorter
Accumulators = dict[str, Accumulator]


@dataclasses.dataclass(frozen=True)
class Predictions:
  """What a model says of every example, in the order of the ids.

  Attributes:
    ids: [N] bytes, TFDS's example ids, ascending.
    labels: [N] int32.
    logits: [N, K] float32, raw outputs of the output layer; the objective's
      `log_probs` makes probabilities of them.
  """

  ids: np.ndarray
  labels: np.ndarray
  logits: np.ndarray


@dataclasses.dataclass(frozen=True)
class Measurements:
  """The accumulators to fill in one pass.

  Attributes:
    empty_fn: () -> name -> empty accumulator.
    update_fn: (accumulators, endpoints, log_probs, labels, mask) -> the same
      accumulators, updated; endpoints include the logits.
  """

  empty_fn: Callable[[], Accumulators]
  update_fn: Callable[..., Accumulators]


def prediction_measurements(num_classes: int) -> Measurements:
  """Accuracy, NLL and ECE: what training looks at."""

  def empty_fn():
    accumulators = {
      'top1_accuracy': Accuracy.empty(k=1),
      'top5_accuracy': Accuracy.empty(k=5),
      'nll': NegativeLogLikelihood.empty(),
      'ece': ExpectedCalibrationError.empty(),
    }
    if num_classes <= 5:  # then the top 5 are always right
      del accumulators['top5_accuracy']
    return accumulators

  def update_fn(accumulators, endpoints, log_probs, labels, mask):
    # Accuracy ranks the logits: where sigmoids saturate, distinct logits get
    # the same probability.
    scores = {'nll': log_probs, 'ece': log_probs}
    return {
      name: accumulator.update(
        scores.get(name, endpoints['logits']), labels, mask
      )
      for name, accumulator in accumulators.items()
    }

  return Measurements(empty_fn, update_fn)


def representation_measurements(
  endpoint_sizes: Mapping[str, int], *, num_classes: int
) -> Measurements:
  """Class separation of every endpoint, and sparsity of all but the logits.

  Class separation of a feature map is that of its spatial average, one value
  per channel: the memory, K x channels, then stays that of an output layer. The
  paper leaves open how it treated feature maps.

  Args:
    endpoint_sizes: name -> channels of the endpoint.
    num_classes: K.
  """

  def empty_fn():
    accumulators = {
      f'class_separation/{name}': ClassSeparation.empty(num_classes, size)
      for name, size in endpoint_sizes.items()
    }
    accumulators |= {
      f'nonzero_fraction/{name}': ActivationSparsity.empty()
      for name in endpoint_sizes
      if name != 'logits'
    }
    return accumulators

  def update_fn(accumulators, endpoints, log_probs, labels, mask):
    del log_probs
    updated = {}
    for name, accumulator in accumulators.items():
      metric, endpoint = name.split('/', 1)
      values = endpoints[endpoint]
      if metric == 'class_separation':
        pooled = jnp.mean(
          values.astype(jnp.float32), axis=tuple(range(1, values.ndim - 1))
        )
        updated[name] = accumulator.update(pooled, labels, mask)
      else:
        updated[name] = accumulator.update(values, mask)
    return updated

  return Measurements(empty_fn, update_fn)


def join_measurements(*parts: Measurements) -> Measurements:
  """Several sets of accumulators that share one forward pass."""

  def empty_fn():
    return {k: v for part in parts for k, v in part.empty_fn().items()}

  def update_fn(accumulators, *outputs):
    updated = {}
    for part in parts:
      own = {name: accumulators[name] for name in part.empty_fn()}
      updated |= part.update_fn(own, *outputs)
    return updated

  return Measurements(empty_fn, update_fn)


def create_eval_step(classifier, *, normalize_fn, measurements: Measurements):
  """Builds the pmapped evaluation step.

  Args:
    classifier: a `Classifier`; its output layer's hyperparameters are replaced
      by those of the objective that the step is given.
    normalize_fn: uint8 images -> what the model sees.
    measurements: the accumulators to update.

  Returns:
    (variables, objective, accumulators, batch) -> (accumulators, logits);
    everything but the objective has a leading device axis. The accumulators
    are donated, one set a device; nothing is summed over devices here.
  """
  num_classes = classifier.output_layer.num_classes

  def eval_step(variables, objective: Objective, accumulators, batch):
    model = classifier.clone(
      output_layer=objective.output_layer(num_classes=num_classes)
    )
    endpoints = model.apply(
      variables, normalize_fn(batch['image']), train=False
    )
    logits = endpoints['logits']
    accumulators = measurements.update_fn(
      accumulators,
      endpoints,
      objective.log_probs(logits),
      batch['label'],
      batch['mask'],
    )
    return accumulators, logits

  return jax.pmap(
    eval_step,
    axis_name=devices.AXIS,
    in_axes=(0, None, 0, 0),
    donate_argnums=2,
  )


class Evaluator:
  """A model's evaluation on one split, compiled once for many states.

  Args:
    config: of the run.
    builder: of the data set.
    split: e.g. 'test'.
    with_representations: measure the endpoints too.
    batch_size: global; None takes the configuration's.
    bad_ids: TFDS ids of images to leave out.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    builder,
    *,
    split: str,
    with_representations: bool = False,
    batch_size: int | None = None,
    bad_ids: Sequence[str] = (),
  ):
    from lossbench.data import datasets, pipeline, preprocess

    self._objective = build.build_objective(config)
    self.num_examples = datasets.num_examples(builder, split) - len(bad_ids)
    self._batch_size = batch_size or config.eval_batch_size
    classifier = build.build_classifier(config, self._objective)
    measurements = prediction_measurements(config.num_classes)
    if with_representations:
      sizes = _endpoint_sizes(classifier, build.image_shape(config))
      measurements = join_measurements(
        measurements,
        representation_measurements(sizes, num_classes=config.num_classes),
      )
    self._measurements = measurements
    self._check_labels = functools.partial(
      pipeline.check_labels, num_classes=config.num_classes
    )
    self._eval_step = create_eval_step(
      classifier,
      normalize_fn=build.build_normalize_fn(config),
      measurements=measurements,
    )

    def read():
      return pipeline.eval_batches(
        builder,
        split=split,
        batch_size=self._batch_size,
        image_fn=preprocess.build_eval_image_fn(config),
        bad_ids=bad_ids,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
      )

    # Data that fit on a device fit beside it; read and decode them once.
    self._batches: Iterable = list(read()) if config.data_on_device else None
    self._read = read

  def scalars(self, state) -> dict[str, float]:
    """Metrics of a replicated train state, by name."""
    accumulators, _ = self.run(state.eval_variables, with_predictions=False)
    return {name: value.compute() for name, value in accumulators.items()}

  def run(
    self,
    variables,
    *,
    with_predictions: bool,
    on_progress: Callable[[int], Any] = lambda num_done: None,
  ) -> tuple[Accumulators, Predictions | None]:
    """One pass over the split.

    Args:
      variables: 'params' and 'batch_stats' with a leading device axis.
      with_predictions: collect them; the one thing that grows with the split.
      on_progress: called with the number of examples done.

    Returns:
      Accumulators summed over devices and processes, on the host, and the
      predictions or None.

    Raises:
      ValueError: if a label is not in [0, num_classes).
    """
    accumulators = devices.replicate(self._measurements.empty_fn())
    rows, done = [], 0
    for batch in self._batches if self._batches is not None else self._read():
      batch = dict(batch)  # the cached one keeps its ids
      ids = batch.pop('id')
      self._check_labels(batch, ids=ids)
      accumulators, logits = self._eval_step(
        variables, self._objective, accumulators, devices.shard(batch)
      )
      if with_predictions:
        rows.append(
          {
            'id': _encode_ids(ids),
            'label': batch['label'],
            'mask': batch['mask'],
            'logits': np.asarray(logits).reshape(len(ids), -1),
          }
        )
      done += self._batch_size
      on_progress(min(done, self.num_examples))
    merged = reduce_devices(concatenate_processes(accumulators))
    merged = {name: merged[name] for name in self._measurements.empty_fn()}
    return merged, _collect(rows) if with_predictions else None


def _endpoint_sizes(classifier, image_shape) -> dict[str, int]:
  sizes = {}

  def record(images):
    key = jax.random.key(0)
    endpoints, _ = classifier.init_with_output(key, images, train=False)
    # Filled here because what eval_shape returns is sorted by name, and the
    # forward order is what a reader wants to see.
    sizes.update({name: x.shape[-1] for name, x in endpoints.items()})

  jax.eval_shape(record, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return sizes


def _encode_ids(ids: np.ndarray) -> np.ndarray:
  """Bytes objects as uint8 [b, _ID_BYTES], which processes can exchange."""
  if max(len(name) for name in ids) > _ID_BYTES:
    raise ValueError(f'An example id is longer than {_ID_BYTES} bytes.')
  fixed = np.array(list(ids), dtype=f'S{_ID_BYTES}')
  return fixed.view(np.uint8).reshape(len(ids), _ID_BYTES)


def _collect(rows: list[dict[str, np.ndarray]]) -> Predictions:
  local = {
    name: np.concatenate([row[name] for row in rows]) for name in rows[0]
  }
  whole = concatenate_processes(local)
  real = whole['mask'] > 0
  ids = np.ascontiguousarray(whole['id'][real]).view(f'S{_ID_BYTES}')[:, 0]
  order = np.argsort(ids, kind='stable')
  return Predictions(
    ids=ids[order],
    labels=whole['label'][real][order],
    logits=whole['logits'][real][order],
  )
