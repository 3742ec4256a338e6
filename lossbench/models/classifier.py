"""A backbone and an objective's output layer, joined."""

import flax.linen as nn
import jax


class Classifier(nn.Module):
  """images -> endpoints of the backbone, then `logits` from its features.

  The output layer's parameters live under 'output_layer', the backbone's under
  'backbone', whatever the objective; so a checkpoint's features can be used
  without knowing what it was trained for.

  Attributes:
    backbone: images -> endpoint name -> activations, the last one `features`.
    output_layer: features [B, M] -> logits [B, K].
  """

  backbone: nn.Module
  output_layer: nn.Module

  def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    endpoints = self.backbone(images, train=train)
    logits = self.output_layer(endpoints['features'], train=train)
    return {**endpoints, 'logits': logits}
