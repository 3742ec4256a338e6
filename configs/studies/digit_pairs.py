"""The whole paper in miniature, offline, in minutes on two cores.

  python -m lossbench.study --config=configs/studies/digit_pairs.py --workdir=studies/digit_pairs --num_workers=2

Nine objectives x 3 seeds with every measurement. The networks learn half of the
hundred classes of digit pairs, 00 to 49. Their features are transferred, by few
images, to the other half and to tasks that cut across both, the tens digit and
the sum of other pairs; and their own classes are learned anew from the holdout.
"""

from configs.studies import default


def get_config():
  config = default.get_default_study()
  config.title = 'Nine objectives on pairs of handwritten digits'
  config.groups.digit_pairs_cnn = default.group(
    'configs/digit_pairs_cnn.py',
    overrides=(
      'dataset=digit_pairs_low',
      'num_classes=50',
      'num_epochs=16',
      'eval_every_epochs=4',
    ),
    num_train_examples=2_000,
    transfer=(
      'digit_pairs_high:train[:1000]',
      'digit_pairs_tens:train[:1000]',
      'digit_pairs_sum:train[:1000]',
      'digit_pairs_low:holdout',
    ),
  )
  return config
