"""Looking at a model's shapes without computing anything."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def trace():
  """trace(model, image_size=...) -> endpoint names in forward order, shapes of
  the endpoints and shapes of the variables."""

  def trace_model(model, *, image_size, batch_size=2):
    names = []

    def forward(key, images):
      endpoints, variables = model.init_with_output(key, images, train=True)
      names.extend(endpoints)
      return endpoints, variables

    images = jax.ShapeDtypeStruct(
      (batch_size, image_size, image_size, 3), jnp.float32
    )
    return names, *jax.eval_shape(forward, jax.random.key(0), images)

  return trace_model
