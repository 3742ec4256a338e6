"""Table 4: cosine softmax on ImageNet over its temperature.

  python -m lossbench.study --config=configs/studies/temperature.py --workdir=studies/temperature --list

Below 0.05 training is unstable unless the loss is multiplied by the temperature. The
paper does so in this study only, at all eight values, and adds that what holds from
0.05 on also holds without: the group `plain`, beside it.
"""

from configs.studies import default
from configs.studies.paper import RELEARNED, TRANSFER

PLAIN = (0.05, 0.06, 0.07, 0.08)
SCALED = (0.01, 0.02, 0.03, 0.04, *PLAIN)


def _variants(temperatures):
  return tuple(
    (f'objective.cosine_softmax.temperature={t}',) for t in temperatures
  )


def get_config():
  config = default.get_default_study()
  config.title = 'Temperature of cosine softmax'
  recipe = 'configs/imagenet_resnet50.py'
  for name, objective, temperatures in (
    ('scaled', 'cosine_softmax+scale_by_temperature', SCALED),
    ('plain', 'cosine_softmax', PLAIN),
  ):
    config.groups[name] = default.group(
      recipe,
      objectives=(objective,),
      variants=_variants(temperatures),
      num_seeds=1,
      transfer=(*TRANSFER, RELEARNED),
      ood=False,
      compare=False,
    )
  return config
