"""The model card of an exported network: README.md as the Hugging Face Hub reads it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lossbench.data import catalogue
from lossbench.evaluation.outputs import RunOutputs
from lossbench.runs.directory import read_json, safe_name

# Ours -> the Hub's, of data sets that it has.
_HUB_DATASETS = {
  'cifar10': 'uoft-cs/cifar10',
  'cifar100': 'uoft-cs/cifar100',
  'imagenet2012': 'ILSVRC/imagenet-1k',
}
# Measures of the test split that a card shows: ours -> the Hub's, or none.
_METRICS = {
  'top1_accuracy': 'accuracy',
  'top5_accuracy': '',
  'nll': '',
  'ece': '',
}
_CITATION = """\
@article{kornblith2020why,
  title={Why Do Better Loss Functions Lead to Less Transferable Features?},
  author={Kornblith, Simon and Chen, Ting and Lee, Honglak and Norouzi, Mohammad},
  journal={arXiv:2010.16402},
  year={2020}
}"""


def write_card(
  outputs: RunOutputs,
  description: Mapping[str, Any],
  not_torch: Sequence[str],
) -> str:
  """The text of README.md.

  Args:
    outputs: of the checkpoint.
    description: content of config.json.
    not_torch: why there is no model.safetensors; () if there is.
  """
  measured = _read_metrics(outputs)
  about = description['lossbench']
  title = f'{description["architecture"]}, {about["objective"]}'
  sections = [
    _front_matter(
      safe_name(outputs.config.dataset), description, measured, not_torch
    ),
    f'# Model card for {title}\n\n'
    f'An image classifier of {description["num_classes"]} classes, '
    f'`{description["architecture"]}`, {_origin(outputs)}.',
    _details(description, outputs),
    _usage(description, not_torch),
    _results(outputs, measured),
    '## Licence\n\nNone is stated: that of the weights is up to who publishes '
    "them, and to the data set's terms.",
    f'## Citation\n\n```bibtex\n{_CITATION}\n```',
  ]
  return '\n\n'.join(sections) + '\n'


def _origin(outputs: RunOutputs) -> str:
  found = outputs.run.imported_from
  dataset = safe_name(outputs.config.dataset)
  if found:
    return f'imported from a checkpoint of {found["format"]}, for classes of {dataset}'
  name = outputs.config.objective.name
  return f'trained by lossbench with {name} on {dataset}'


def _read_metrics(outputs: RunOutputs) -> dict[str, float]:
  """What was measured of this checkpoint on its test split; {} if nothing."""
  split = catalogue.get_dataset_spec(outputs.config.dataset).test_split
  path = outputs.eval_path(outputs.config.dataset, split) / 'metrics.json'
  if not path.exists():
    return {}
  content = read_json(path)
  # In another precision other numbers were measured.
  if (content.get('checkpoint'), content.get('compute_dtype')) != (
    outputs.fingerprint,
    outputs.config.compute_dtype,
  ):
    return {}
  values = {
    record['name']: record['value']
    for record in content['metrics']
    if record['endpoint'] is None
  }
  return {n: values[n] for n in _METRICS if values.get(n) is not None}


def _front_matter(dataset, description, measured, not_torch) -> str:
  """YAML: of every value the JSON, which is YAML too."""
  hub = _HUB_DATASETS.get(dataset)
  fields: dict[str, Any] = {
    'tags': ['image-classification', 'lossbench', 'stablehlo']
    + ([] if not_torch else ['timm']),
    'pipeline_tag': 'image-classification',
    'library_name': 'lossbench' if not_torch else 'timm',
  }
  if hub:
    fields['datasets'] = [hub]
  metrics = [
    {'type': kind, 'value': measured[name]}
    for name, kind in _METRICS.items()
    if kind and name in measured
  ]
  if metrics:
    result = {
      'task': {'type': 'image-classification'},
      'dataset': {'name': dataset, 'type': hub or dataset},
      'metrics': metrics,
    }
    fields['metrics'] = [metric['type'] for metric in metrics]
    name = (
      f'{description["architecture"]}-{description["lossbench"]["objective"]}'
    )
    fields['model-index'] = [{'name': name, 'results': [result]}]
  lines = [f'{name}: {json.dumps(value)}' for name, value in fields.items()]
  return '\n'.join(['---', *lines, '---'])


def _output_layer(layer: Mapping[str, Any]) -> str:
  """What the output layer computes of features x."""
  bias = ' + b_k' if layer['use_bias'] else ''
  if layer['free_features']:
    return f'`(W_k x / ||W_k||{bias}) / temperature`, temperature = {layer["temperature"]:g}'
  if layer['cosine']:
    return f'`cos(W_k, x) / temperature{bias}`, temperature = {layer["temperature"]:g}'
  if layer['background']:
    return (
      f'`W_k x{bias}`, divided by the norm of all logits and of one of no class'
    )
  return f'`W_k x{bias}`'


def _details(description, outputs) -> str:
  about = description['lossbench']
  hparams = ', '.join(
    f'{part}.{name} = {value:g}'
    for part, values in about['hyperparameters'].items()
    for name, value in values.items()
  )
  images = ', '.join(f'{k} = {v}' for k, v in about['preprocessing'].items())
  model = ', '.join(f'{k} = {v}' for k, v in about['model'].items())
  formulas = '; then '.join(
    f'`{step["formula"]}`'
    + ''.join(f', {k} = {v:g}' for k, v in step.items() if isinstance(v, float))
    for step in about['log_probs']
  )
  rows = {
    'Model': model,
    'Objective': about['objective'] + (f' ({hparams})' if hparams else ''),
    'Logits': _output_layer(about['output_layer']),
    'Log-probabilities of logits l': formulas,
    'Features': str(description['num_features']),
    'Images': images,
    'Computed in': outputs.config.compute_dtype,
    'Checkpoint': f'step {about["step"]}, {about["checkpoint"]}',
    'lossbench': about['version'],
  }
  lines = [f'- **{name}:** {value}' for name, value in rows.items()]
  return '\n'.join(['## Details', '', *lines])


_PROGRAM_USE = """\
## Use

`model.stablehlo` is the whole network, from uint8 images as the line "Images" says
to natural logarithms of probabilities. It needs JAX and nothing of lossbench:

```python
import jax.export
import numpy as np

with open('model.stablehlo', 'rb') as file:
  network = jax.export.deserialize(bytearray(file.read()))
images = np.zeros((2, {shape}), np.uint8)
log_probs = network.call(images)
```"""
_TORCH_USE = """\
`model.safetensors` has the names and layouts of torchvision and timm, and gives
logits; what makes probabilities of them is the line above.

```python
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{architecture}({arguments})
model.load_state_dict(load_file('model.safetensors'))
model.eval()
```

```python
import timm

model = timm.create_model(
  '{architecture}', num_classes={num_classes}, checkpoint_path='model.safetensors'
)
```"""


def _usage(description, not_torch) -> str:
  channels, height, width = description['pretrained_cfg']['input_size']
  parts = [_PROGRAM_USE.format(shape=f'{height}, {width}, {channels}')]
  images = description['lossbench']['preprocessing']
  if images.get('eval_pixels') == 'float32':
    parts.append(
      'It was evaluated on resized images whose pixels were not rounded, as '
      '`eval_pixels` says; the program takes rounded ones, of which its numbers '
      'are slightly others.'
    )
  if not_torch:
    parts.append(
      'There is no `model.safetensors` in names of torchvision, which would '
      f'compute something else: {"; ".join(not_torch)}.'
    )
  else:
    if _is_nearest(images):
      parts.append(
        'What `pretrained_cfg` says of crop and interpolation is the nearest that '
        'timm computes; the line "Images" is exact.'
      )
    has_auxiliary = description['architecture'].startswith('inception')
    arguments = f'num_classes={description["num_classes"]}'
    if has_auxiliary:
      arguments += (
        ', aux_logits=False, transform_input=False, init_weights=False'
      )
    parts.append(
      _TORCH_USE.format(
        architecture=description['architecture'],
        num_classes=description['num_classes'],
        arguments=arguments,
      )
    )
  parts.append(
    '`lossbench.safetensors` has the same arrays under the names of lossbench.'
  )
  return '\n\n'.join(parts)


def _is_nearest(images: Mapping[str, Any]) -> bool:
  """Whether images are prepared otherwise than timm can."""
  return images['resize_images'] and not (
    images['resize_antialias']
    and images['eval_crop'] == 'resize_then_crop'
    and images['eval_pixels'] == 'uint8'
  )


def _results(outputs, measured) -> str:
  if not measured:
    return (
      '## Results\n\nThis checkpoint has not been evaluated: `python -m '
      'lossbench.evaluate` does, and exports after it say its results here.'
    )
  split = catalogue.get_dataset_spec(outputs.config.dataset).test_split
  rows = [f'| {name} | {value:.4f} |' for name, value in measured.items()]
  return '\n'.join(
    [
      '## Results',
      '',
      f'On {safe_name(outputs.config.dataset)} {split}:',
      '',
      '| | |',
      '|---|---:|',
      *rows,
    ]
  )
