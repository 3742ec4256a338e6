"""Logistic regression with a certificate, for arrays of any framework.

The path over L2 values that `lossbench.transfer` and `lossbench.fit_path` fit, as a
library: features [N, M] and labels [N] as NumPy's arrays, JAX's or of whatever keeps
to DLPack.

>>> import numpy as np
>>> from lossbench import logistic_regression
>>> rng = np.random.default_rng(0)
>>> labels = rng.integers(3, size=200)
>>> features = rng.normal(size=(200, 5)) + np.eye(3, 5)[labels]
>>> fits = logistic_regression.fit_path(
...   features, labels, num_classes=3, l2_values=[0.1, 1.0, 10.0]
... )
>>> fits[1].l2, fits[1].weights.shape, fits[1].bias.shape
(1.0, (3, 5), (3,))
>>> all(fit.relative_gap_bound <= 1e-6 for fit in fits)
True
>>> predicted, nll = logistic_regression.score(fits[1], features, labels)
>>> print(f'{np.mean(predicted == labels):.3f} {nll:.3f}')
0.650 0.819

A fit's objective is at most `gap_bound` nats above the minimum of scikit-learn's
LogisticRegression(C=1 / l2), whatever the solver did. `holdout_mask` and `best_l2`
are the protocol's holdout, and its choice by accuracy and cross-entropy there.
PyTorch's tensors need no conversion:

>>> import torch
>>> fits = logistic_regression.fit_path(
...   torch.tensor(features), torch.tensor(labels), num_classes=3, l2_values=[1.0]
... )
>>> print(f'{fits[0].objective:.3f}')
164.613
"""

from lossbench.metrics.dlpack import for_any_arrays
from lossbench.probe import logistic_regression as _regression
from lossbench.probe import protocol as _protocol

Fit = _regression.Fit
L2_VALUES = _regression.L2_VALUES
fit_path = for_any_arrays(_regression.fit_path, face=__name__)
predict = for_any_arrays(_regression.predict, face=__name__)
score = for_any_arrays(_regression.score, face=__name__)
holdout_mask = for_any_arrays(_protocol.holdout_mask, face=__name__)
best_l2 = for_any_arrays(_protocol.best_l2, face=__name__)
