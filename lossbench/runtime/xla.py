"""Flags of XLA that are chosen before its backend starts."""

import importlib.metadata
import importlib.util
import os
from collections.abc import MutableMapping

# jaxlib gives convolutions on the CPU to YNNPACK, whose gradients with respect
# to kernels are slow; without it they go to Eigen. An unknown flag ends the
# process, so it is given to these versions only, which know it.
_CONVOLUTION_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CONVOLUTION_VALUE = '-individual_convolution'
_FIRST_VERSION, _END_VERSION = (0, 10, 1), (0, 12, 1)
# Compilers of accelerators read XLA_FLAGS too and may know fewer flags.
_CUDA_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')
_ACCELERATOR_PLUGINS = ('libtpu', *_CUDA_PLUGINS, 'jax_rocm7_plugin')
_DETERMINISM_FLAGS = (
  '--xla_gpu_deterministic_ops',
  '--xla_gpu_exclude_nondeterministic_ops',
)


def _is_for_cpu(environ) -> bool:
  platforms = environ.get('JAX_PLATFORMS', '')
  if platforms:
    return platforms == 'cpu'
  return not any(map(importlib.util.find_spec, _ACCELERATOR_PLUGINS))


def _is_for_cuda(environ) -> bool:
  platforms = environ.get('JAX_PLATFORMS', '').split(',')
  chosen = {'', 'cuda', 'gpu'} & set(platforms)
  return bool(chosen) and any(map(importlib.util.find_spec, _CUDA_PLUGINS))


def choose_deterministic_gpu_ops(
  environ: MutableMapping[str, str] = os.environ,
):
  """Lets NVIDIA's GPUs compute the same bits again, as resumed runs must.

  Otherwise XLA may take kernels that add by atomic operations, in any order, and
  choose between kernels by how fast they are this time. Adds to XLA_FLAGS where
  a CUDA plug-in may be in use, unless they name one of these flags already:
  `--xla_gpu_deterministic_ops=false` gives XLA's own choice back, which may be
  faster.

  Args:
    environ: the environment.
  """
  flags = environ.get('XLA_FLAGS', '')
  if _is_for_cuda(environ) and not any(f in flags for f in _DETERMINISM_FLAGS):
    environ['XLA_FLAGS'] = f'{flags} {_DETERMINISM_FLAGS[0]}=true'.strip()


def choose_cpu_convolutions(environ: MutableMapping[str, str] = os.environ):
  """Lets Eigen do the convolutions on the CPU, where that is known to work.

  Adds to XLA_FLAGS, which the backend reads when it starts and which processes
  that are started inherit. Leaves it alone where an accelerator may be in use,
  and if it says already which convolutions to use:
  `--xla_cpu_experimental_ynn_fusion_type=+individual_convolution` is XLA's own
  choice.

  Args:
    environ: the environment.
  """
  flags = environ.get('XLA_FLAGS', '')
  if _CONVOLUTION_FLAG in flags:
    return
  words = importlib.metadata.version('jaxlib').split('.')[:3]
  version = tuple(int(word) for word in words if word.isdigit())
  if _FIRST_VERSION <= version < _END_VERSION and _is_for_cpu(environ):
    flag = f'{_CONVOLUTION_FLAG}={_CONVOLUTION_VALUE}'
    environ['XLA_FLAGS'] = f'{flags} {flag}'.strip()
