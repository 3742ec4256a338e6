"""Images per second of the ImageNet input pipelines, beside flax's example.

All contenders run in one process, one after the other, in several interleaved
rounds; the table shows medians, of wall time and of CPU time: where other
programs share the cores, the latter are the steadier. They read the same
records, hand over the same batches as NumPy arrays, and draw crops alike
(flax's area range of 8-100 % is in effect 10-100 %, as its min_object_covered
is 0.1). Ours are uint8, to be normalised on the devices; flax's are normalised
float32. Flax's shuffle buffer is set to one record because ours does not
shuffle here.

  git -C <flax> show HEAD:examples/imagenet/input_pipeline.py > /tmp/flax.py
  python -m benchmarks.input_pipeline --peer=/tmp/flax.py
"""

import argparse
import importlib.util
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data import crops

_SEED = 0


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


def _train(builder, *, batch_size, size, flip):
  def example(position, record):
    seed = tf.stack([tf.constant(_SEED, tf.int64), position])
    image = crops.random_resized_crop(record['image'], seed, size=size)
    if flip:
      image = crops.random_flip(image, seed + 1)
    return {'image': image, 'label': record['label']}

  return _batches(_encoded(builder, 'train'), example, batch_size)


def _evaluation(builder, *, batch_size, size):
  def example(_, record):
    image = crops.center_crop(record['image'], size=size)
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


def _load_peer(path: pathlib.Path):
  spec = importlib.util.spec_from_file_location('peer_input_pipeline', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


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


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dir', default='../shared/data/tfds')
  parser.add_argument(
    '--peer', type=pathlib.Path, help="path of flax's input_pipeline.py"
  )
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--num_images', type=int, default=1200)
  parser.add_argument('--num_rounds', type=int, default=7)
  args = parser.parse_args()

  builder = tfds.builder('imagenet2012', data_dir=args.data_dir)
  shape = dict(batch_size=args.batch_size, size=args.image_size)
  contenders: dict[str, Callable[[], tf.data.Dataset]] = {
    'train': lambda: _train(builder, **shape, flip=True),
    'train, flips left to the devices': lambda: _train(
      builder, **shape, flip=False
    ),
    'window decoding alone': lambda: _windows_only(
      builder, batch_size=args.batch_size
    ),
    'evaluation': lambda: _evaluation(builder, **shape),
  }
  if args.peer:
    peer = _load_peer(args.peer)
    peer_shape = dict(
      batch_size=args.batch_size,
      image_size=args.image_size,
      shuffle_buffer_size=1,
    )
    contenders['flax train'] = lambda: peer.create_split(
      builder, train=True, **peer_shape
    )
    contenders['flax evaluation'] = lambda: peer.create_split(
      builder, train=False, **peer_shape
    )

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

  def ratio(of, name, reference):
    return f'{of[name] / of[reference]:.2f}' if reference in of else ''

  print(
    '| pipeline | images/s | / flax | / window decoding '
    '| images/CPU s | / flax | / window decoding |'
  )
  print('|---|' + '---:|' * 6)
  for name in contenders:
    is_eval = 'evaluation' in name
    cells = [name]
    for of in (wall, cpu):
      cells += [
        f'{of[name]:.0f}',
        ratio(of, name, 'flax evaluation' if is_eval else 'flax train'),
        '' if is_eval else ratio(of, name, 'window decoding alone'),
      ]
    print(f'| {" | ".join(cells)} |')


if __name__ == '__main__':
  main()
