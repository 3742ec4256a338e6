"""Figure 4: class separation, by layer."""

from matplotlib.figure import Figure

from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing
from lossbench.report.records import StudyRecords


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure 4."""
  endpoints, values, sizes = lines.layer_values(
    study, group, 'class_separation'
  )
  endpoints, values = lines.merge_equal_layers(endpoints, values)
  figure = Figure(figsize=(9, 4.5), layout='constrained')
  axes = figure.subplots()
  lines.draw_layers(study, axes, endpoints, values)
  axes.set_ylabel('class separation (R²)')
  lines.add_legend(figure, axes)
  return Drawing(figure, sizes)
