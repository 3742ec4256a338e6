"""Figure 4: class separation, by layer."""

from matplotlib.figure import Figure

from lossbench.report.figures import lines
from lossbench.report.figures.drawing import (
  Drawing,
  describe_splits,
  measured_splits,
)
from lossbench.report.records import StudyRecords

_METRIC = 'class_separation'


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure 4: of training images, as the paper's, and of the test split."""
  splits = measured_splits(
    study,
    group,
    lambda run, split: bool(run.endpoints(_METRIC, training=split.is_training)),
  )
  figure = Figure(figsize=(2 + 6.5 * len(splits), 4.5), layout='constrained')
  panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
  found = []
  for axes, split in zip(panels, splits, strict=True):
    endpoints, values, keys, sizes = lines.layer_values(
      study, group, _METRIC, training=split.is_training
    )
    endpoints, values = lines.merge_equal_layers(endpoints, values)
    lines.draw_layers(study, axes, endpoints, values)
    axes.set_title(split.title, fontsize='medium')
    found.append((split, keys, sizes))
  panels[0].set_ylabel('class separation (R²)')
  lines.add_legend(figure, panels[-1])
  return Drawing(figure, describe_splits(study, group, found))
