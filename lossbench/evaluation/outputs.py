"""What a checkpoint says of data sets: computed once, kept in its run.

Logits, features and layers are written into the run directory together with
their source: checkpoint, data set, split and preprocessing. Whoever asks for
them again gets the stored ones, as long as the source is the same; so comparing
72 models repeats no forward pass.
"""

import contextlib
import functools
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from lossbench import build
from lossbench.data import catalogue
from lossbench.data.folder_names import parse_folder
from lossbench.evaluation.collected import (
  NOTHING,
  NUM_SAMPLED,
  Collect,
  Collected,
)
from lossbench.evaluation.files import read_collected, write_arrays
from lossbench.evaluation.loop import (
  Evaluator,
  Pass,
  check_batch_size,
  endpoint_names,
)
from lossbench.objectives.losses import unit_norm
from lossbench.runs.checkpoints import (
  DamagedCheckpointError,
  open_checkpoints,
)
from lossbench.runs.directory import TRAINING, RunDirectory, read_json
from lossbench.runtime import cluster, devices, storage
from lossbench.runtime.processes import everywhere
from lossbench.runtime.progress import create_printer

# Fields that decide what the model sees of an image.
_IMAGE_FIELDS = (
  'compute_dtype',
  'downscale',
  'eval_crop',
  'eval_pixels',
  'image_size',
  'pixel_mean',
  'pixel_std',
  'resize_antialias',
  'resize_images',
  'resize_method',
  'resize_ratio',
)


class RunOutputs:
  """One checkpoint of one run, and its outputs on any data set.

  The checkpoint is read when a forward pass first needs it.

  Args:
    workdir: of the run.
    step: 'best', 'last' or a number.
    data_dir: TFDS directory; None takes the run's.
    batch_size: global; None takes the run's.
    compute_dtype: 'float32' or 'bfloat16'; None takes the run's.

  Raises:
    FileNotFoundError: if there is no run or no such checkpoint.
    ValueError: if an argument is not legal or the run's files are damaged.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    step: str = 'best',
    data_dir: str | None = None,
    batch_size: int | None = None,
    compute_dtype: str | None = None,
  ):
    self.run = RunDirectory(workdir)
    self.config = self.run.read_config()
    self._own_dtype = self.config.compute_dtype
    if compute_dtype:
      self.config.compute_dtype = compute_dtype
    self.objective = build.build_objective(self.config)
    self._data_dir = self.config.data_dir if data_dir is None else data_dir
    self._batch_size = batch_size or self.config.eval_batch_size
    # (name, whether its labels are the run's classes) -> builder.
    self._builders: dict[tuple[str, bool], Any] = {}
    check_batch_size(self._batch_size)
    with open_checkpoints(self.run) as checkpointer:
      self.step = checkpointer.resolve(step)
      with self._remedy_named(checkpointer.steps):
        self.fingerprint = checkpointer.fingerprint(self.step)

  @contextlib.contextmanager
  def _remedy_named(self, steps: Sequence[int]) -> Iterator[None]:
    """Adds to what is damaged in the checkpoint what can be done about it."""
    try:
      yield
    except DamagedCheckpointError as error:
      remedies = [f'--step={step}' for step in steps if step != self.step]
      verb = 'import' if list(steps) == [0] else 'train'
      remedies.append(f'{verb} again with the same command, which repairs it')
      raise DamagedCheckpointError(
        f'{error}. Remedy: {", or ".join(remedies)}.'
      ) from error

  @functools.cached_property
  def variables(self) -> dict[str, Any]:
    """The variables that evaluation uses, on the host, checked to be finite.

    The outputs alone do not tell: on CPUs XLA's maximum of NaN and 0 may be 0,
    so that a ReLU turns a diverged network into one with finite features.
    """
    with (
      open_checkpoints(self.run) as checkpointer,
      self._remedy_named(checkpointer.steps),
    ):
      variables = checkpointer.restore(self.step).eval_variables
    leaves = jax.tree.leaves(variables)
    num_broken = sum(not np.isfinite(leaf).all() for leaf in leaves)
    if num_broken:
      raise ValueError(
        f'{num_broken} of {len(leaves)} parameter arrays of step {self.step} '
        f'of {self.run.path} hold NaN or infinity: the run diverged. Choose an '
        'earlier --step.'
      )
    return variables

  @functools.cached_property
  def _replicated(self):
    return devices.replicate(self.variables)

  def endpoints(self) -> list[str]:
    """The names of the model's layers, in forward order."""
    return endpoint_names(self.config)

  @property
  def kernel(self) -> np.ndarray:
    """[M, K] of the output layer; of unit columns where it looks at cosines."""
    kernel = np.asarray(self.variables['params']['output_layer']['kernel'])
    if self.objective.output_layer(num_classes=kernel.shape[1]).cosine:
      kernel = np.asarray(unit_norm(kernel, axis=0))
    return kernel

  def release(self):
    """Forgets the variables on the devices and on the host."""
    self.__dict__.pop('variables', None)
    self.__dict__.pop('_replicated', None)

  @functools.cached_property
  def class_names(self) -> list[str]:
    """The names of the run's classes, in the order of its labels."""
    from lossbench.data import datasets

    own = self.config.dataset
    if parse_folder(own):
      return self.open_dataset(own).info.features['label'].names
    return datasets.class_names(own, self._data_dir)

  def open_dataset(
    self, name: str, *, own_labels: bool = False, folder: str = ''
  ):
    """The builder of a data set; raises as `datasets.open_dataset` does.

    It is kept: a folder of a million images takes minutes to list. Not those of
    `folder`, of which a family has many and each is opened once.

    Args:
      name: of the data set.
      own_labels: its labels are to be the run's classes, also in a folder.
      folder: the name of a folder that is read in its place, or ''.
    """
    from lossbench.data import datasets

    own = name == self.config.dataset
    mapped = own_labels and not own and bool(parse_folder(folder or name))
    if not folder and (name, mapped) in self._builders:
      return self._builders[name, mapped]
    builder = datasets.open_dataset(
      folder or name,
      data_dir=self._data_dir,
      num_classes=self.config.num_classes if own else None,
      class_names=self.class_names if mapped else None,
    )
    if not folder:
      self._builders[name, mapped] = builder
    return builder

  def tfds_split(self, builder, split: str) -> str:
    """The TFDS split of a name, which may be 'holdout' or 'training'.

    Raises:
      ValueError: if the run has no such holdout, or the split is unknown.
    """
    from lossbench.data import datasets

    if split == TRAINING:
      split, _ = datasets.holdout_splits(
        builder, num_holdout=self.config.num_holdout
      )
    if split == 'holdout':
      if not self.config.num_holdout:
        raise ValueError(
          f'{self.run.path} was trained without a holdout. Name another '
          '--split.'
        )
      _, split = datasets.holdout_splits(
        builder, num_holdout=self.config.num_holdout
      )
    datasets.num_examples(builder, split)
    return split

  def _examples(
    self,
    dataset: str,
    split: str,
    *,
    resized: bool = False,
    num_examples: int | None = None,
    own_labels: bool = True,
    folder: str = '',
  ):
    """What the run can use of a split, which may be 'holdout' or 'training'.

    Args:
      dataset: one that lossbench knows.
      split: of it.
      resized: its images are of any size, whatever those of the run are.
      num_examples: at most so many, the same random ones for all runs.
      own_labels: as of `open_dataset`.
      folder: likewise.
    """
    from lossbench.data import datasets
    from lossbench.data.examples import build_examples

    config = self.config
    if resized:
      config = config.copy_and_resolve_references()
      config.resize_images = True
    builder = self.open_dataset(dataset, own_labels=own_labels, folder=folder)
    # Before the split is looked up, which one process alone may fail to find.
    if jax.process_count() > 1:
      cluster.check_agreement(
        {
          f'the checkpoint of {self.run.path}': self.fingerprint,
          'the split': split,
          'the number of its examples': num_examples,
          'the data set': datasets.describe(builder),
        }
      )
    if folder:
      split = catalogue.get_dataset_spec(folder).test_split
    read_split = self.tfds_split(builder, split)
    if num_examples is not None:
      read_split = datasets.random_examples(builder, read_split, num_examples)
    return build_examples(
      config,
      builder,
      read_split,
      run=self.run,
      dataset=folder or dataset,
    )

  def eval_path(self, dataset: str, split: str) -> storage.Path:
    """Where results on a split of a data set lie."""
    return self.run.eval_path(dataset, split)

  def _cache_path(self, dataset: str, split: str, name: str) -> storage.Path:
    """Where outputs are kept: beside the measurements of the same step.

    Another step, and another type to compute in, has files of its own, so that
    the arrays in a directory are always those that its metrics.json is of.
    """
    directory = self.eval_path(dataset, split)
    dtype = self.config.compute_dtype
    wanted = self.step, dtype
    try:
      record = read_json(directory / 'metrics.json')
      measured = record['step'], record.get('compute_dtype', self._own_dtype)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
      measured = wanted
    suffix = ''
    if measured != wanted:
      suffix = f'-{self.step:09d}'
      suffix += f'-{dtype}' if dtype != self._own_dtype else ''
    return directory / f'{name}{suffix}.npz'

  def measure(
    self,
    dataset: str,
    split: str,
    *,
    suite: str,
    num_sampled: int = NUM_SAMPLED,
    num_examples: int | None = None,
  ) -> Pass:
    """A pass that measures a suite; its logits and features are stored.

    Args:
      dataset: one that lossbench knows.
      split: of it, or 'holdout' or 'training'.
      suite: of measurements.
      num_sampled: examples of which features are kept.
      num_examples: at most so many, the same random ones for all runs, and
        nothing of them is stored; None for all.

    Returns:
      The pass, with every example's 'logits' in `collected`, by id, and the
      features and logits of at most `num_sampled` examples in `sample`.
    """
    examples = self._examples(dataset, split, num_examples=num_examples)
    result = self._pass(
      dataset,
      examples,
      suite=suite,
      collect=Collect(logits=True, num_sampled=num_sampled),
    )
    result = result._replace(collected=result.collected.sorted_by_id())
    if num_examples is not None:
      return result
    directory = self.eval_path(dataset, split)
    self._store(
      directory / 'predictions.npz',
      result.collected,
      self._source(dataset, examples),
    )
    self._store(
      directory / 'features.npz',
      result.sample,
      self._source(dataset, examples, num_sampled=num_sampled),
    )
    return result

  def predictions(
    self,
    dataset: str,
    split: str,
    *,
    own_labels: bool = True,
    folder: str = '',
    quiet: bool = False,
  ) -> Collected:
    """Every example's 'logits', ordered by id.

    Args:
      dataset: one that lossbench knows.
      split: of it, or 'holdout'.
      own_labels: its labels are the run's classes.
      folder: the name of a folder that is read in its place, or ''.
      quiet: do not report progress.
    """
    examples = self._examples(
      dataset, split, own_labels=own_labels, folder=folder
    )
    return self._stored(
      self._cache_path(dataset, split, 'predictions'),
      self._source(dataset, examples),
      lambda: self._pass(
        dataset,
        examples,
        collect=Collect(logits=True),
        own_labels=own_labels,
        quiet=quiet,
      ).collected.sorted_by_id(),
    )

  def sample(
    self, dataset: str, split: str, *, num_sampled: int = NUM_SAMPLED
  ) -> Collected:
    """'features' and 'logits' of a sample that is the same for every run."""
    examples = self._examples(dataset, split)
    return self._stored(
      self._cache_path(dataset, split, 'features'),
      self._source(dataset, examples, num_sampled=num_sampled),
      lambda: (
        self._pass(
          dataset,
          examples,
          collect=Collect(num_sampled=num_sampled),
        ).sample
      ),
    )

  def features(
    self,
    dataset: str,
    split: str,
    *,
    image_fn: Callable,
    preprocessing: dict[str, Any],
  ) -> Collected:
    """Every example's 'features' of a data set to transfer to, by id.

    Args:
      dataset: one that lossbench knows.
      split: of it, or 'holdout'.
      image_fn: encoded bytes -> [H, W, C].
      preprocessing: what tells this `image_fn` from others, as JSON.
    """
    resized = dataset != self.config.dataset
    examples = self._examples(dataset, split, resized=resized, own_labels=False)
    name = self.eval_path(dataset, split).name
    path = self.run.transfer_path(dataset, None)
    return self._stored(
      path / f'features-{name}.npz',
      self._source(dataset, examples, **preprocessing),
      lambda: self._pass(
        dataset,
        examples,
        collect=Collect(features=True),
        image_fn=image_fn,
        preprocessing=json.dumps(preprocessing, sort_keys=True),
        own_labels=False,
      ).collected.sorted_by_id(),
    )

  def layers_split(
    self, dataset: str, split: str, *, num_examples: int, minibatch_size: int
  ) -> str:
    """The TFDS split that `layers` reads.

    Raises:
      ValueError: if the split is unknown, or the examples fill no minibatch.
    """
    from lossbench.data import datasets

    builder = self.open_dataset(dataset, own_labels=True)
    split = self.tfds_split(builder, split)
    total = datasets.num_examples(builder, split)
    if min(num_examples, total) < minibatch_size:
      raise ValueError(
        f'{min(num_examples, total)} examples of {dataset} {split} fill no '
        f'minibatch of {minibatch_size}. Take a smaller --minibatch_size.'
      )
    if num_examples >= total:
      return split
    num_examples -= num_examples % minibatch_size
    return datasets.first_examples(builder, split, num_examples)

  def layers(
    self,
    dataset: str,
    split: str,
    *,
    num_examples: int,
    minibatch_size: int,
    only: Collection[str] | None = None,
  ) -> Collected:
    """All layers of the first examples, in the order of reading.

    TFDS writes examples in random order, so the first are a random sample.

    Args:
      dataset: one that lossbench knows.
      split: of it, or 'holdout'.
      num_examples: at most so many, in whole minibatches where there are more.
      minibatch_size: G of the Gram matrices.
      only: names of the arrays that are wanted; None for all.

    Returns:
      'pooled/<endpoint>' [N, C] and 'gram/<endpoint>' [N, G].
    """
    read_split = self.layers_split(
      dataset,
      split,
      num_examples=num_examples,
      minibatch_size=minibatch_size,
    )
    examples = self._examples(dataset, read_split)
    unit = minibatch_size * jax.device_count()
    return self._stored(
      self._cache_path(dataset, split, 'layers'),
      self._source(dataset, examples, minibatch_size=minibatch_size),
      lambda: (
        self._pass(
          dataset,
          examples,
          collect=Collect(pooled=True, gram_size=minibatch_size),
          batch_size=max(unit, self._batch_size // unit * unit),
          # Minibatches are of consecutive examples, whoever computes them.
          sharded=False,
        ).collected
      ),
      only=only,
    )

  def _image_config(self, dataset) -> ml_collections.ConfigDict:
    """The run's configuration for the images of a data set."""
    if not catalogue.get_dataset_spec(dataset).cropped:
      return self.config
    config = self.config.copy_and_resolve_references()
    config.resize_ratio = 1.0
    return config

  def _pass(
    self,
    dataset,
    examples,
    *,
    suite='nothing',
    collect=NOTHING,
    image_fn=None,
    preprocessing=None,
    batch_size=None,
    own_labels=True,
    quiet=False,
    sharded=True,
  ) -> Pass:
    evaluator = Evaluator(
      self._image_config(dataset),
      examples,
      suite=suite,
      collect=collect,
      image_fn=image_fn,
      preprocessing=preprocessing,
      batch_size=batch_size or self._batch_size,
      own_labels=own_labels,
      sharded=sharded,
    )
    if quiet:
      return evaluator.run(self._replicated)
    return evaluator.run(
      self._replicated,
      on_progress=create_printer(
        f'{dataset} {examples.split}', examples.num_examples
      ),
    )

  def _source(self, dataset, examples, **more) -> str:
    from lossbench.data import datasets

    own = self._image_config(dataset)
    fields = {name: own[name] for name in _IMAGE_FIELDS}
    if fields['eval_pixels'] == 'uint8':  # as before there was the field
      del fields['eval_pixels']
    config = ml_collections.ConfigDict(fields)
    return json.dumps(
      {
        'step': self.step,
        'checkpoint': self.fingerprint,
        'dataset': datasets.identity(examples.builder),
        'split': examples.split,
        'num_examples': examples.num_examples + len(examples.bad_ids),
        'left_out': f'{zlib.crc32(repr(examples.bad_ids).encode()):08x}',
        'images': json.loads(config.to_json()),
        **more,
      },
      sort_keys=True,
    )

  def _stored(self, path, source, compute_fn, *, only=None) -> Collected:
    stored = read_collected(path, source, only)
    # Processes without a shared disk have nothing stored, and a pass needs all.
    if not everywhere(stored is not None):
      stored = compute_fn()
      self._store(path, stored, source)
    return stored

  def _store(self, path, collected: Collected, source: str):
    if jax.process_index() == 0:
      write_arrays(
        path,
        id=collected.ids,
        label=collected.labels,
        source=np.array(source),
        **collected.arrays,
      )
