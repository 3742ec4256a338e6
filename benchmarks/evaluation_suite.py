"""What measuring everything costs beside measuring accuracy alone.

Passes of ResNet-50 with random weights over the same images, interleaved:
accuracy only (the suite 'predictions', nothing kept) and everything
`lossbench.evaluate` measures in its pass (the suite 'representations', logits
of all and features of 10,000 examples kept), scores of the logits included. The
singular values at its end take the same few seconds for any number of images and
are left out. Prints the bytes of the accumulators and the process's peak memory.

  python -m benchmarks.evaluation_suite --data_dir=../shared/data/tfds --num_rounds=5
"""

import argparse
import resource
import statistics
import time

import jax
import numpy as np

from configs import imagenet_resnet50
from lossbench import build
from lossbench.data import datasets
from lossbench.data.examples import Examples
from lossbench.evaluation import scoring
from lossbench.evaluation.collected import NOTHING, Collect
from lossbench.evaluation.loop import Evaluator
from lossbench.runtime import devices


def _variables(config):
  classifier = build.build_classifier(config, build.build_objective(config))
  side, _, channels = build.image_shape(config)
  images = np.zeros((1, side, side, channels), np.float32)
  init = jax.jit(lambda key: classifier.init(key, images, train=False))
  return devices.replicate(jax.device_get(init(jax.random.key(0))))


def _peak_mb():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--split', default='train[:160]')
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--num_rounds', type=int, default=5)
  args = parser.parse_args()
  config = imagenet_resnet50.get_config('sigmoid')
  config.image_size = args.image_size
  config.compute_dtype = 'float32'
  config.eval_batch_size = args.batch_size
  builder = datasets.open_dataset('imagenet2012', data_dir=args.data_dir)
  variables = _variables(config)
  objective = build.build_objective(config)
  kept = Collect(logits=True, num_sampled=10_000)

  def create(suite, collect):
    return Evaluator(
      config, Examples(builder, args.split), suite=suite, collect=collect
    )

  evaluators = {
    'accuracy only': create('predictions', NOTHING),
    'everything': create('representations', kept),
  }
  secs: dict[str, list[float]] = {name: [] for name in evaluators}
  for round_number in range(args.num_rounds + 1):
    for name, evaluator in evaluators.items():
      began = time.monotonic()
      result = evaluator.run(variables)
      if result.collected is not None:
        scoring.prediction_records(
          objective, result.collected.arrays['logits'], result.collected.labels
        )
      if round_number:  # the first compiles
        secs[name].append(time.monotonic() - began)
  num_examples = evaluators['everything'].num_examples
  base = statistics.median(secs['accuracy only'])
  print(
    f'{num_examples} images of {args.image_size} px, batch {args.batch_size}'
  )
  print('| pass | s, median | / accuracy only |')
  print('|---|---:|---:|')
  for name, values in secs.items():
    median = statistics.median(values)
    print(f'| {name} | {median:.1f} | {median / base:.3f} |')
  ratios = [b / a for a, b in zip(*secs.values(), strict=True)]
  print(f'median of paired ratios {statistics.median(ratios):.3f} (goal: 1.15)')
  accumulators = evaluators['everything'].run(variables).accumulators
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(accumulators)) / 2
  print(
    f'accumulators: {num_bytes / 2**20:.0f} MiB a device whatever the number of '
    f'images; peak resident memory {_peak_mb():.0f} MB'
  )


if __name__ == '__main__':
  main()
