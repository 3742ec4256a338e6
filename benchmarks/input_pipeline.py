"""Images per second of the ImageNet input pipelines, beside two others.

All contenders run in one process, one after the other, in several interleaved
rounds; the tables show medians, of wall time and of CPU time: where other
programs share the cores, the latter are the steadier. They read the same
records, hand over batches of the same size as NumPy arrays and draw crops alike
(flax's area range of 8-100 % is in effect 10-100 %, as its min_object_covered
is 0.1; big_vision's is set to it). Ratios are to a peer with the same filter,
those of TensorFlow 1's bicubic, the recipes', to a peer with bicubic: the kernel
of TensorFlow is the same. Ours and big_vision's batches are uint8, to be
normalised on the devices; flax's are normalised float32. No contender shuffles.

  git -C <flax> show HEAD:examples/imagenet/input_pipeline.py > /tmp/flax.py
  python -m benchmarks.input_pipeline --flax=/tmp/flax.py --big_vision=<checkout>
"""

import argparse
import functools
import importlib.util
import itertools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data import crops

_SEED = 0
_PEERS = ('flax', 'big_vision')


def _encoded(builder, split):
  options = tf.data.Options()
  options.deterministic = True
  options.threading.max_intra_op_parallelism = 1
  return builder.as_dataset(
    split=split,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(
      options=options, skip_prefetch=True, try_autocache=False
    ),
  ).repeat()


def _batches(dataset, map_fn, batch_size):
  return (
    dataset.enumerate()
    .map(map_fn, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    .prefetch(tf.data.AUTOTUNE)
  )


def _train(builder, *, batch_size, size, flip=True, method='bicubic'):
  def example(position, record):
    seed = tf.stack([tf.constant(_SEED, tf.int64), position])
    image = crops.random_resized_crop(
      record['image'], seed, size=size, method=method
    )
    if flip:
      image = crops.random_flip(image, seed + 1)
    return {'image': image, 'label': record['label']}

  return _batches(_encoded(builder, 'train'), example, batch_size)


def _evaluation(builder, *, batch_size, size, method='bicubic'):
  def example(_, record):
    image = crops.center_crop(record['image'], size=size, method=method)
    return {'image': image, 'label': record['label']}

  return _batches(_encoded(builder, 'validation'), example, batch_size)


def _windows_only(builder, *, batch_size):
  """Decodes the windows of `_train` and keeps one pixel of each."""

  def example(position, record):
    seed = tf.stack([tf.constant(_SEED, tf.int64), position])
    shape = tf.io.extract_jpeg_shape(record['image'])
    window = crops.sample_window(shape[0], shape[1], seed)
    image = tf.io.decode_and_crop_jpeg(record['image'], window, channels=3)
    return {'image': image[0, 0], 'label': record['label']}

  return _batches(_encoded(builder, 'train'), example, batch_size)


def _load_flax(path: pathlib.Path):
  """The module of flax's example, from its file."""
  spec = importlib.util.spec_from_file_location('flax_input_pipeline', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _big_vision(builder, preprocess_fn, *, split, batch_size):
  """big_vision's preprocessing of the same records, batched as ours are."""

  def example(_, record):
    image = preprocess_fn({'image': record['image']})['image']
    return {'image': image, 'label': record['label']}

  return _batches(_encoded(builder, split), example, batch_size)


def _load_big_vision(checkout: pathlib.Path, *, size, method):
  """big_vision's preprocessing of training and evaluation, by `pp` strings."""
  sys.path.insert(0, str(checkout))
  from big_vision.pp import builder as pp_builder
  from big_vision.pp import ops_image  # noqa: F401  (registers the ops)

  return (
    pp_builder.get_preprocess_fn(
      f"decode_jpeg_and_inception_crop({size}, area_min=10, method='{method}')"
      '|flip_lr'
    ),
    pp_builder.get_preprocess_fn(
      f"decode|resize_small({round(size * 256 / 224)}, method='{method}')"
      f'|central_crop({size})'
    ),
  )


def _measure(
  dataset: tf.data.Dataset, *, batch_size: int, num_images: int
) -> tuple[float, float]:
  """(images per second, images per second of CPU time) in steady state."""
  batches: Iterator = dataset.as_numpy_iterator()
  num_batches = max(1, num_images // batch_size)
  for _ in itertools.islice(batches, max(1, num_batches // 4)):
    pass  # warm up
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in itertools.islice(batches, num_batches):
    pass
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return num_batches * batch_size / wall, num_batches * batch_size / cpu


def _peer_of(name: str, project: str) -> str:
  """A project's pipeline that crops and resizes as one of ours does."""
  return f'{project} {name.replace("bicubic_tf1", "bicubic")}'


def _parse_args():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dir', default='../shared/data/tfds')
  parser.add_argument(
    '--flax', type=pathlib.Path, help="path of flax's input_pipeline.py"
  )
  parser.add_argument(
    '--big_vision', type=pathlib.Path, help='a checkout of big_vision'
  )
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--num_images', type=int, default=1200)
  parser.add_argument('--num_rounds', type=int, default=7)
  return parser.parse_args()


def _contenders(args) -> dict[str, Callable[[], tf.data.Dataset]]:
  """Name -> what builds the pipeline, in the order of the table."""
  builder = tfds.builder('imagenet2012', data_dir=args.data_dir)
  shape = dict(batch_size=args.batch_size, size=args.image_size)
  contenders = {
    'window decoding alone': lambda: _windows_only(
      builder, batch_size=args.batch_size
    ),
    'train, bicubic_tf1': lambda: _train(
      builder, **shape, method='bicubic_tf1'
    ),
    'train, bicubic': lambda: _train(builder, **shape),
    'train, bilinear': lambda: _train(builder, **shape, method='bilinear'),
    'evaluation, bicubic_tf1': lambda: _evaluation(
      builder, **shape, method='bicubic_tf1'
    ),
    'evaluation, bicubic': lambda: _evaluation(builder, **shape),
    'evaluation, bilinear': lambda: _evaluation(
      builder, **shape, method='bilinear'
    ),
  }
  if args.flax:
    flax = _load_flax(args.flax)
    flax_shape = dict(
      batch_size=args.batch_size,
      image_size=args.image_size,
      shuffle_buffer_size=1,
    )
    for split in ('train', 'evaluation'):
      contenders[f'flax {split}, bicubic'] = functools.partial(
        flax.create_split, builder, train=split == 'train', **flax_shape
      )
  for method in ('bicubic', 'bilinear') if args.big_vision else ():
    train_fn, eval_fn = _load_big_vision(
      args.big_vision, size=args.image_size, method=method
    )
    for name, fn, split in (
      ('train', train_fn, 'train'),
      ('evaluation', eval_fn, 'validation'),
    ):
      contenders[f'big_vision {name}, {method}'] = functools.partial(
        _big_vision, builder, fn, split=split, batch_size=args.batch_size
      )

  return contenders


def _print_rates(wall, cpu):
  """Prints images per second, and of the peers and of decoding alone."""
  header = '| / flax | / big_vision | / window decoding '
  print(f'| pipeline | images/s {header}| images/CPU s {header}|')
  print('|---|' + '---:|' * 8)
  for name in wall:
    references = [_peer_of(name, project) for project in _PEERS]
    references.append('window decoding alone' if 'train' in name else '')
    cells = [name]
    for of in (wall, cpu):
      cells.append(f'{of[name]:.0f}')
      cells += [
        f'{of[name] / of[other]:.2f}' if other in of else ''
        for other in references
      ]
    print(f'| {" | ".join(cells)} |')


def main():
  args = _parse_args()
  contenders = _contenders(args)
  rates = {name: [] for name in contenders}
  for _ in range(args.num_rounds):
    for name, build in contenders.items():
      rates[name].append(
        _measure(
          build(), batch_size=args.batch_size, num_images=args.num_images
        )
      )
  wall, cpu = (
    {name: statistics.median(r[i] for r in rates[name]) for name in rates}
    for i in range(2)
  )
  _print_rates(wall, cpu)


if __name__ == '__main__':
  main()
