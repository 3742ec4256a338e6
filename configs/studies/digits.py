"""Every stage of a study in a quick test: two minutes on two cores.

  python -m lossbench.study --config=configs/studies/digits.py --workdir=studies/digits --num_workers=2

Two objectives x 2 seeds of the digits recipe with every measurement, and one seed on
half of the classes, whose features are transferred to the other half. Most of the
time goes into compilation, which a second study spares.
All of them are nearly always right on digits, so that it says little of the
paper; `digit_pairs.py` does.
"""

from configs.studies import default

OBJECTIVES = ('softmax', 'cosine_softmax')


def get_config():
  config = default.get_default_study()
  config.title = 'Two objectives on handwritten digits'
  recipe = 'configs/digits_cnn.py'
  overrides = ('num_epochs=10', 'eval_every_epochs=5')
  config.groups.digits_cnn = default.group(
    recipe, objectives=OBJECTIVES, num_seeds=2, overrides=overrides
  )
  config.groups.digits_cnn_low = default.group(
    recipe,
    objectives=OBJECTIVES,
    num_seeds=1,
    overrides=(
      'dataset=digits_low',
      'num_classes=5',
      'num_holdout=100',
      *overrides,
    ),
    transfer=('digits_high', 'digits_low:holdout'),
    compare=False,
  )
  return config
