"""The whole paper in miniature, offline, in minutes on two cores.

  python -m lossbench.study --config=configs/studies/digits.py --workdir=studies/digits --num_workers=2

Nine objectives x 3 seeds of the digits recipe with every measurement, and the
same on half of the classes, whose features are transferred to the other half.
"""

from configs.studies import default


def get_config():
  config = default.get_default_study()
  config.title = 'Nine objectives on handwritten digits'
  config.groups.digits_cnn = default.group(
    'configs/digits_cnn.py', overrides=('eval_every_epochs=4',)
  )
  config.groups.digits_cnn_low = default.group(
    'configs/digits_cnn.py',
    overrides=(
      'dataset=digits_low',
      'num_classes=5',
      'num_holdout=100',
      'eval_every_epochs=4',
    ),
    transfer=('digits_high', 'digits_low:holdout'),
    compare=False,
  )
  return config
