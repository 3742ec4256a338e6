"""Studies of groups that a test gives, planned only."""

from configs.studies import default
from lossbench.study import configuration, plan

RECIPE = 'configs/digits_cnn.py'


def planned(
  workdir='studies/x', *, config_file='configs/studies/x.py', **groups
) -> plan.Study:
  """A study of groups, each with the fields that are given of it."""
  config = default.get_default_study()
  for name, fields in groups.items():
    config.groups[name] = default.group(**{'recipe': RECIPE, **fields})
  return configuration.build_study(
    config, config_file=config_file, workdir=workdir
  )
