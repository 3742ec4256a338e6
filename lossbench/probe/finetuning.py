"""Full fine-tuning of a checkpoint's backbone on other data sets.

The protocol is that of Kornblith et al. 2019 (arXiv:1805.08974): all weights are
trained with softmax cross-entropy, Nesterov momentum and a cosine schedule, over a
grid of learning rates and weight decays; the point of highest holdout accuracy is
trained again on all training data and tested once. Whatever the backbone's own
objective was, that of fine-tuning is softmax, so that nothing else differs.

Points lie in finetune/<dataset>/ of the run, each a run directory that can be
continued; once its holdout accuracy is known its checkpoints go. The final run
stays, and can be evaluated like any other.
"""

import dataclasses
import itertools
import json
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from lossbench.data import catalogue
from lossbench.evaluation.outputs import RunOutputs
from lossbench.probe.protocol import HOLDOUT_FRACTION, test_records
from lossbench.probe.results import write_correct
from lossbench.probe.transfer import Transferred, describe_source
from lossbench.runs.directory import (
  RunDirectory,
  read_json,
  safe_name,
  what_decides_numbers,
  write_json,
)
from lossbench.runs.history import read_history
from lossbench.runs.records import Record, create_record
from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER


@dataclasses.dataclass(frozen=True)
class Grid:
  """What is tried.

  Attributes:
    learning_rates: to choose from.
    weight_decays: likewise; the coefficient of L2 is this over the learning
      rate, as in the paper's CIFAR recipes.
    num_epochs: of every run.
    batch_size: global.
  """

  learning_rates: tuple[float, ...]
  weight_decays: tuple[float, ...]
  num_epochs: float
  batch_size: int

  def to_json(self) -> dict[str, Any]:
    """The form in which it is recorded."""
    return json.loads(json.dumps(dataclasses.asdict(self)))


def _build_image_fields(config, builder) -> dict[str, Any]:
  """How the images of a data set are read: as the run reads its own, if it can.

  Those of another size are resized, to random crops in training and to the
  centre in evaluation, as in transfer.
  """
  from lossbench.data import datasets

  height, width, _ = datasets.shape_of_images(builder)
  if (height, width) == (config.image_size, config.image_size):
    if not config.resize_images:
      return {}
  elif not config.resize_images:
    return {
      'resize_images': True,
      'resize_ratio': 1.0,
      'crop_padding': 0,
      'data_on_device': False,
      'steps_per_dispatch': 0,
    }
  return {'resize_ratio': 1.0}


def build_finetuning_config(
  config: ml_collections.ConfigDict,
  builder,
  *,
  dataset: str,
  source: storage.Path,
  step: int,
  grid: Grid,
  num_holdout: int,
  learning_rate: float,
  weight_decay: float,
) -> ml_collections.ConfigDict:
  """The configuration of one fine-tuning.

  Args:
    config: of the run whose backbone is fine-tuned.
    builder: of the data set.
    dataset: its name.
    source: the run's directory.
    step: of its checkpoint.
    grid: for what all points share.
    num_holdout: examples held out.
    learning_rate: at the start.
    weight_decay: see `Grid`.
  """
  from lossbench.data import datasets

  tuned = config.copy_and_resolve_references()
  tuned.objective = ml_collections.ConfigDict({'name': 'softmax'})
  tuned.update(
    {
      'dataset': dataset,
      'num_classes': datasets.count_classes(builder),
      'num_holdout': num_holdout,
      'init_from': str(source),
      'init_step': str(step),
      'learning_rate': learning_rate,
      'weight_decay': weight_decay,
      'divide_weight_decay_by_learning_rate': True,
      'num_epochs': float(grid.num_epochs),
      'batch_size': grid.batch_size,
      # What a recipe for another task has beside, and no fine-tuning wants.
      'learning_rate_batch_size': 0,
      'schedule': 'cosine',
      'warmup_epochs': 0.0,
      'decay_per_epoch': 1.0,
      'momentum': 0.9,
      'stop_epoch': 0.0,
      'accumulation_steps': 1,
      'autoaugment': '',
      'mixup_alpha': 0.0,
      'class_weights': '',
      'ema_decay': 0.0,
      'ema_ramp': True,
      # One evaluation and one checkpoint, at the end.
      'eval_every_epochs': float(grid.num_epochs),
      'keep_every_epochs': 0.0,
      'keep_checkpoints': 1,
      'profile_steps': 0,
      **_build_image_fields(config, builder),
    }
  )
  return tuned


def finetune_checkpoint(
  workdir: str,
  dataset: str,
  *,
  grid: Grid,
  step: str = 'best',
  data_dir: str | None = None,
) -> Transferred:
  """Fine-tunes a checkpoint on a data set; writes into its run.

  It continues where an earlier call was stopped.

  Args:
    workdir: of the run.
    dataset: one that lossbench knows, not the run's own.
    grid: what is tried.
    step: 'best', 'last' or a number.
    data_dir: TFDS directory; None takes the run's.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set.
    ValueError: if an argument is not legal, or every point diverged.
    OSError: if the results cannot be written.
  """
  tuning = _Finetuning(
    workdir, dataset, grid=grid, step=step, data_dir=data_dir
  )
  path = [
    tuning.try_point(learning_rate, weight_decay)
    for learning_rate, weight_decay in itertools.product(
      grid.learning_rates, grid.weight_decays
    )
  ]
  best = best_point(path)
  predicted, test = tuning.train_and_predict(
    best['learning_rate'], best['weight_decay']
  )
  return tuning.write(path, best, predicted, test)


def best_point(path: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The point of highest holdout accuracy, of equals of lowest NLL.

  Args:
    path: 'holdout_accuracy' and 'holdout_nll' of each, None where it diverged.

  Raises:
    ValueError: if all diverged.
  """
  known = [p for p in path if p['holdout_accuracy'] is not None]
  if not known:
    raise ValueError(
      f'All {len(path)} points of the grid diverged. Give lower --learning_rates.'
    )
  return max(known, key=lambda p: (p['holdout_accuracy'], -p['holdout_nll']))


class _Finetuning:
  """Fine-tuning of one checkpoint on one data set."""

  def __init__(self, workdir, dataset, *, grid: Grid, step, data_dir):
    from lossbench.data import datasets

    self._outputs = RunOutputs(workdir, step=step, data_dir=data_dir)
    self._data_dir = data_dir
    own = self._outputs.config.dataset
    if dataset == own:
      raise ValueError(
        f'--dataset={dataset} is what {self._outputs.run.path} was trained on. '
        'Fine-tune on another one.'
      )
    self._dataset, self._grid = dataset, grid
    self._spec = catalogue.get_dataset_spec(dataset)
    self._builder = self._outputs.open_dataset(dataset)
    total = datasets.num_examples(self._builder, 'train')
    self._num_holdout = max(1, round(HOLDOUT_FRACTION * total))
    self._num_train = total
    self._directory = self._outputs.run.path / 'finetune' / safe_name(dataset)

  def _config(self, learning_rate, weight_decay, num_holdout):
    config = build_finetuning_config(
      self._outputs.config,
      self._builder,
      dataset=self._dataset,
      source=self._outputs.run.path,
      step=self._outputs.step,
      grid=self._grid,
      num_holdout=num_holdout,
      learning_rate=learning_rate,
      weight_decay=weight_decay,
    )
    if self._data_dir is not None:
      config.data_dir = self._data_dir
    return config

  def _path(self, config, name: str) -> storage.Path:
    """A run directory of its own for whatever decides a run's numbers.

    Where the run lies does not: studies may be moved.
    """
    decisive = what_decides_numbers(config) | {
      'init_from': self._outputs.fingerprint
    }
    text = json.dumps(decisive, sort_keys=True)
    return self._directory / f'{name}-{zlib.crc32(text.encode()):08x}'

  def try_point(self, learning_rate: float, weight_decay: float):
    """A point of the grid and its holdout accuracy; None where it diverged."""
    from lossbench.train import loop

    config = self._config(learning_rate, weight_decay, self._num_holdout)
    path = self._path(config, f'lr{learning_rate:g}-wd{weight_decay:g}')
    result_path = path / 'result.json'
    try:
      return read_json(result_path)
    except (OSError, ValueError):  # not done, or damaged: done again
      pass
    result = {
      'learning_rate': learning_rate,
      'weight_decay': weight_decay,
      'holdout_accuracy': None,
      'holdout_nll': None,
    }
    try:
      loop.train(config, workdir=str(path))
    except FloatingPointError as error:
      LOGGER.warning('%s: %s', path, error)
    else:
      last = read_history(RunDirectory(path))[-1]
      result['holdout_accuracy'] = last['top1_accuracy']
      result['holdout_nll'] = last['nll']
    if jax.process_index() == 0:
      write_json(result_path, result)
      storage.remove_tree(path / 'checkpoints')
    return result

  def train_and_predict(self, learning_rate: float, weight_decay: float):
    """Classes [N] of the test examples after training on all; and these."""
    from lossbench.train import loop

    config = self._config(learning_rate, weight_decay, 0)
    path = self._path(config, 'final')
    loop.train(config, workdir=str(path))
    final = RunOutputs(path, step='last', data_dir=self._data_dir)
    test = final.predictions(self._dataset, self._spec.test_split)
    return test.arrays['logits'].argmax(axis=1), test

  def write(self, path, best, predicted, test) -> Transferred:
    """Writes metrics and values of examples."""
    main_metric = self._spec.main_metric
    num_classes = test.arrays['logits'].shape[1]
    records = [
      *test_records(predicted, test.labels, num_classes=num_classes),
      *self._choice_records(path, best),
    ]
    records.sort(key=lambda record: record.name != main_metric)
    outputs = self._outputs
    if jax.process_index() == 0:
      target = outputs.run.finetune_path(self._dataset)
      source = describe_source(outputs)
      correct = predicted == test.labels
      write_correct(target, test, {'': correct}, source=source)
      write_json(
        target / 'metrics.json',
        {
          'dataset': self._dataset,
          'split': self._spec.test_split,
          'train_split': 'train',
          'num_train': self._num_train,
          'main_metric': main_metric,
          'grid': self._grid.to_json(),
          **source,
          'metrics': [record.to_json() for record in records],
          'path': path,
        },
      )
      LOGGER.info('Wrote %s', target)
    return Transferred(
      objective=outputs.config.objective.name,
      step=outputs.step,
      dataset=self._dataset,
      split='train',
      num_train=self._num_train,
      main_metric=main_metric,
      records=records,
    )

  def _choice_records(self, path, best) -> list[Record]:
    """The chosen point, on the held-out examples, and whether it is an edge."""
    num_diverged = sum(p['holdout_accuracy'] is None for p in path)
    diverged = ''
    if num_diverged:
      diverged = f'{num_diverged} of {len(path)} points of the grid diverged'
    records = [
      create_record(
        'holdout_accuracy',
        best['holdout_accuracy'],
        n=self._num_holdout,
        note=diverged,
      )
    ]
    for name in ('learning_rate', 'weight_decay'):
      values = {p[name] for p in path}
      edge = ''
      if len(values) > 1 and best[name] in (min(values), max(values)):
        edge = f'at the edge of the grid: a better {name} may lie beyond'
      records.append(
        create_record(name, best[name], n=self._num_holdout, note=edge)
      )
    return records
