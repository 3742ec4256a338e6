"""Figure 2: the share of activations that are not zero, by layer."""

from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import StudyRecords


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure 2."""
  endpoints, values, keys, sizes = lines.layer_values(
    study, group, 'nonzero_fraction'
  )
  figure = Figure(figsize=(9, 4.5), layout='constrained')
  axes = figure.subplots()
  lines.draw_layers(study, axes, endpoints, values, scale=display.percent(1))
  axes.set_ylabel('non-zero activations (%)')
  axes.set_ylim(bottom=0)
  lines.add_legend(figure, axes)
  return Drawing(figure, describe_sizes(keys, sizes, what='test examples'))
