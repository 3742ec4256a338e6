"""Which flags XLA gets, and that it takes them."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest

from lossbench.runtime import xla

FLAG = '--xla_cpu_experimental_ynn_fusion_type'
DETERMINISTIC = '--xla_gpu_deterministic_ops'
EIGEN = f'{FLAG}=-individual_convolution'


@pytest.mark.parametrize(
  ('environ', 'version', 'flags'),
  [
    ({'JAX_PLATFORMS': 'cpu'}, '0.10.2', EIGEN),
    ({'JAX_PLATFORMS': 'cpu'}, '0.12.0.1', EIGEN),
    (
      {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--a=1'},
      '0.11.3',
      f'--a=1 {EIGEN}',
    ),
    # Known to no other version, and unknown flags end the process.
    ({'JAX_PLATFORMS': 'cpu'}, '0.10.0', None),
    ({'JAX_PLATFORMS': 'cpu'}, '0.12.1', None),
    # Accelerators' compilers read the same variable.
    ({'JAX_PLATFORMS': 'tpu'}, '0.10.2', None),
    ({'JAX_PLATFORMS': 'cuda,cpu'}, '0.10.2', None),
    # Whoever says what to use gets it.
    (
      {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{FLAG}=+individual_convolution'},
      '0.10.2',
      f'{FLAG}=+individual_convolution',
    ),
  ],
)
def test_flags(environ, version, flags, monkeypatch):
  monkeypatch.setattr(importlib.metadata, 'version', lambda _: version)
  xla.choose_cpu_convolutions(environ)
  assert environ.get('XLA_FLAGS') == flags


@pytest.mark.parametrize(
  ('environ', 'plugins', 'flags'),
  [
    ({}, {'jax_cuda12_plugin'}, f'{DETERMINISTIC}=true'),
    (
      {'JAX_PLATFORMS': 'cuda,cpu', 'XLA_FLAGS': '--a=1'},
      {'jax_cuda13_plugin'},
      f'--a=1 {DETERMINISTIC}=true',
    ),
    ({'JAX_PLATFORMS': 'cpu'}, {'jax_cuda12_plugin'}, None),
    ({}, {'libtpu'}, None),
    ({'JAX_PLATFORMS': 'gpu'}, {'jax_rocm7_plugin'}, None),
    # Whoever chooses gets it.
    (
      {'XLA_FLAGS': f'{DETERMINISTIC}=false'},
      {'jax_cuda12_plugin'},
      f'{DETERMINISTIC}=false',
    ),
  ],
)
def test_gpus_compute_the_same_bits_again(environ, plugins, flags, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda n: n in plugins)
  xla.choose_deterministic_gpu_ops(environ)
  assert environ.get('XLA_FLAGS') == flags


@pytest.mark.parametrize(
  ('flags', 'ynn'),
  [(f'{DETERMINISTIC}=true', False), (f'{FLAG}=+individual_convolution', True)],
)
def test_the_backend_takes_them(root, flags, ynn):
  """And the documented override gives XLA's own choice back."""
  program = """
import lossbench, jax, jax.numpy as jnp
convolve = jax.jit(lambda x, k: jax.lax.conv(x, k, (1, 1), 'SAME'))
x, kernel = jnp.ones((8, 32, 16, 16)), jnp.ones((32, 32, 3, 3))
print('ynn' in convolve.lower(x, kernel).compile().as_text())
"""
  found = subprocess.run(
    [sys.executable, '-c', program],
    cwd=root,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
    check=True,
  )
  assert found.stdout.strip() == str(ynn)
