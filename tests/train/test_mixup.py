"""Mixup: linear, soft targets, the right distribution of shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lossbench.train.mixup import mixup


def test_images_and_targets_are_mixed_with_the_same_share():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(5, 4, 4, 3)).astype(np.float32)
  targets = np.eye(5, dtype=np.float32)
  mixed, soft = mixup(images, targets, jax.random.key(3), alpha=0.4)
  share = float(soft[0, 0])
  assert 0 < share < 1
  for i in range(5):
    np.testing.assert_allclose(
      mixed[i], share * images[i] + (1 - share) * images[i - 1], rtol=1e-5
    )
    np.testing.assert_allclose(
      soft[i], share * targets[i] + (1 - share) * targets[i - 1], rtol=1e-5
    )
  np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize('alpha', [0.2, 1.0])
def test_shares_are_beta_distributed(alpha):
  images, targets = jnp.zeros((2, 1, 1, 1)), jnp.eye(2)
  shares = jax.vmap(
    lambda key: mixup(images, targets, key, alpha=alpha)[1][0, 0]
  )(jax.random.split(jax.random.key(0), 2000))
  assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_keeps_the_images_dtype():
  images = jnp.ones((2, 1, 1, 1), jnp.bfloat16)
  mixed, _ = mixup(images, jnp.eye(2), jax.random.key(0), alpha=0.2)
  assert mixed.dtype == jnp.bfloat16
