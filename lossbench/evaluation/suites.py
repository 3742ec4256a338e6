"""Which accumulators share a forward pass.

A suite is a named set of measurements: 'predictions' is what training looks at
on the holdout, 'representations' what `lossbench.evaluate` measures of layers
beside the predictions it collects, 'nothing' serves passes that only collect.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lossbench.evaluation import predictions
from lossbench.evaluation.predictions import Accumulators
from lossbench.metrics.collapse import NeuralCollapse
from lossbench.metrics.hardness import (
  AngularVisualHardness,
  cosine_similarities,
)
from lossbench.metrics.separation import ClassSeparation
from lossbench.metrics.sparsity import ActivationSparsity


class ModelOutputs(NamedTuple):
  """What measurements are made of, for one batch on one device.

  Attributes:
    endpoints: name -> activations [B, ...], `features` and `logits` last.
    log_probs: [B, K], by the objective's own map.
    labels: [B] int class ids.
    mask: [B], 1 = real, 0 = padding.
    kernel: [M, K] of the output layer; None where nobody knows it.
  """

  endpoints: Mapping[str, jax.Array]
  log_probs: jax.Array
  labels: jax.Array
  mask: jax.Array
  kernel: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Measurements:
  """The accumulators to fill in one pass.

  Attributes:
    empty_fn: () -> name -> empty accumulator.
    update_fn: (accumulators, ModelOutputs) -> the same accumulators, updated.
  """

  empty_fn: Callable[[], Accumulators]
  update_fn: Callable[[Accumulators, ModelOutputs], Accumulators]


def spatial_mean(activations: jax.Array) -> jax.Array:
  """The average over space of a feature map, float32 [B, C]; features as is.

  So every layer has one value per channel and its measures the memory of an
  output layer's. The paper leaves open how it treated feature maps.
  """
  return jnp.mean(
    activations.astype(jnp.float32), axis=tuple(range(1, activations.ndim - 1))
  )


def _no_measurements(endpoint_sizes, num_classes, with_kernel) -> Measurements:
  del endpoint_sizes, num_classes, with_kernel
  return Measurements(dict, lambda accumulators, outputs: accumulators)


def _prediction_measurements(
  endpoint_sizes, num_classes, with_kernel
) -> Measurements:
  """Accuracy, NLL and ECE."""
  del endpoint_sizes, with_kernel

  def update_fn(accumulators, outputs):
    return predictions.update(
      accumulators,
      outputs.endpoints['logits'],
      outputs.log_probs,
      outputs.labels,
      outputs.mask,
    )

  return Measurements(lambda: predictions.empty(num_classes), update_fn)


def _representation_measurements(
  endpoint_sizes, num_classes, with_kernel
) -> Measurements:
  """Class separation and sparsity of layers, hardness, neural collapse.

  Class separation is that of every endpoint's `spatial_mean`; sparsity that of
  every endpoint but the logits. Neural collapse's second moments of the
  features also give their singular values.
  """
  with_features = 'features' in endpoint_sizes

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
    if with_features and with_kernel:
      accumulators['angular_visual_hardness'] = AngularVisualHardness.empty()
    if with_features:
      accumulators['neural_collapse'] = NeuralCollapse.empty(
        num_classes, endpoint_sizes['features']
      )
    return accumulators

  def update_fn(accumulators, outputs):
    endpoints, labels, mask = outputs.endpoints, outputs.labels, outputs.mask
    updated = {}
    for name, accumulator in accumulators.items():
      metric, _, endpoint = name.partition('/')
      values = endpoints[endpoint or 'features']
      if metric == 'nonzero_fraction':
        updated[name] = accumulator.update(values, mask)
        continue
      if metric == 'class_separation':
        values = spatial_mean(values)
      elif metric == 'angular_visual_hardness':
        values = cosine_similarities(values, outputs.kernel)
      updated[name] = accumulator.update(values, labels, mask)
    return updated

  return Measurements(empty_fn, update_fn)


_SUITES = {
  'nothing': _no_measurements,
  'predictions': _prediction_measurements,
  'representations': _representation_measurements,
}


def create_measurements(
  suite: str,
  endpoint_sizes: Mapping[str, int],
  *,
  num_classes: int,
  with_kernel: bool = True,
) -> Measurements:
  """The measurements of a suite.

  Args:
    suite: 'nothing', 'predictions' or 'representations'.
    endpoint_sizes: name -> channels of the endpoint, in forward order.
    num_classes: K.
    with_kernel: whether the output layer's weights are known.

  Raises:
    ValueError: if the suite is unknown.
  """
  if suite not in _SUITES:
    raise ValueError(f'Unknown suite {suite!r}. Known: {", ".join(_SUITES)}.')
  return _SUITES[suite](endpoint_sizes, num_classes, with_kernel)
