"""Seconds from batch to batch where a new epoch begins, beside their median.

ImageNet with AutoAugment, streamed, with a consumer that computes nothing but
takes a fixed time for a batch, as devices do.

  python -m benchmarks.epoch_starts --data_dir=../shared/data/tfds
"""

import argparse
import itertools
import statistics
import time

import tensorflow_datasets as tfds

from configs import imagenet_resnet50
from lossbench.data import pipeline, preprocess
from lossbench.data.examples import Examples


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dir', default='../shared/data/tfds')
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--num_epochs', type=int, default=6)
  parser.add_argument(
    '--step_secs', type=float, default=0.15, help='what a step would take'
  )
  args = parser.parse_args()

  config = imagenet_resnet50.get_config('softmax+autoaugment')
  builder = tfds.builder('imagenet2012', data_dir=args.data_dir)
  examples = Examples(builder, 'train')
  steps = examples.num_examples // args.batch_size
  batches = pipeline.train_batches(
    examples,
    batch_size=args.batch_size,
    image_fn=preprocess.build_train_image_fn(config),
    seed=0,
    start_step=0,
    num_steps=args.num_epochs * steps,
    window=pipeline.shuffle_window(examples, shuffle_gib=config.shuffle_gib),
  )
  secs, begin = [], time.perf_counter()
  for _ in batches:
    time.sleep(args.step_secs)
    secs.append(time.perf_counter() - begin)
    begin = time.perf_counter()
  median = statistics.median(secs)
  print('| batch | ms, with its step |')
  print('|---|---:|')
  print(f'| first of the run | {secs[0] * 1e3:.0f} |')
  for epoch in range(1, args.num_epochs):
    print(f'| first of epoch {epoch} | {secs[epoch * steps] * 1e3:.1f} |')
  print(f'| median | {median * 1e3:.1f} |')
  slowest = max(itertools.islice(secs, 1, None))
  print(f'| slowest but the first | {slowest * 1e3:.1f} |')


if __name__ == '__main__':
  main()
