"""Measures of predictions and representations, for arrays of any framework.

Here are the plain functions, from arrays to a number or a record in one call;
each says shapes, ranges, its source and an example
(`help(metrics.class_separation)`). Arrays may be NumPy's, JAX's or of any framework
that keeps to DLPack:

>>> import torch
>>> from lossbench import metrics
>>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]], requires_grad=True)
>>> float(metrics.top1_accuracy(logits, torch.tensor([0, 0])))
0.5

Their modules have the streaming counterparts too, `Accumulator`s, which training and
evaluation fill batch by batch. A module is imported when a function of it is
first asked for: `smooth_density`, for reports, brings no JAX.
"""

import importlib

from lossbench.metrics.dlpack import for_any_arrays

# module -> what of it is for everybody's arrays.
_EXPORTS = {
  'accuracy': ('top1_accuracy', 'top5_accuracy', 'top_k_correct'),
  'agreement': ('cluster_models', 'ensemble_log_probs', 'pairwise_agreement'),
  'brier': ('brier_score',),
  'calibration': (
    'expected_calibration_error',
    'negative_log_likelihood',
  ),
  'calibration_errors': (
    'adaptive_calibration_error',
    'adaptive_classwise_error',
    'classwise_calibration_error',
  ),
  'cka': ('linear_cka', 'minibatch_cka', 'rbf_cka'),
  'collapse': ('neural_collapse',),
  'density': ('smooth_density',),
  'distances': ('cosine_distances',),
  'hardness': ('angular_visual_hardness',),
  'ood': ('auroc', 'energy_score', 'fpr_at_95_tpr', 'max_probability_score'),
  'separation': ('class_separation',),
  'sparsity': ('nonzero_fraction',),
  'spectra': ('class_centroids', 'participation_ratio', 'singular_values'),
  'temperature': ('fit_temperature', 'temper'),
}
_MODULES = {
  name: module for module, names in _EXPORTS.items() for name in names
}
__all__ = sorted(_MODULES)


def __getattr__(name):
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_MODULES[name]}')
  function = for_any_arrays(getattr(module, name), face=__name__)
  globals()[name] = function  # the next time nobody asks here
  return function


def __dir__():
  return sorted({*globals(), *__all__})
