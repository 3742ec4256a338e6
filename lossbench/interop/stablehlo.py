"""A network as one StableHLO program: uint8 images -> log-probabilities.

`jax.export` keeps such programs for half a year of new versions of JAX, on every
platform that they were lowered for. Whoever has JAX can call them; nothing of
lossbench is in them but its arithmetic, and the weights.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

# Of GPUs only NVIDIA's.
PLATFORMS = ('cpu', 'cuda', 'tpu')


def serialize_program(
  log_probs_fn: Callable[[jax.Array], jax.Array],
  image_shape: tuple[int, int, int],
) -> bytes:
  """A function of batches of any size, as bytes for a file.

  Args:
    log_probs_fn: uint8 images [B, H, W, C] -> float32 [B, K].
    image_shape: [H, W, C].
  """
  (batch,) = export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
  exported = export.export(jax.jit(log_probs_fn), platforms=PLATFORMS)(images)
  return bytes(exported.serialize())


def load_program(content: bytes) -> Callable[[np.ndarray], jax.Array]:
  """What `serialize_program` was given, compiled once for every size of batches.

  Raises:
    Exception: of `jax.export`, if it is damaged.
  """
  return jax.jit(export.deserialize(bytearray(content)).call)
