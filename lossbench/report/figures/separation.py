"""Figure 4: class separation, by layer."""

from matplotlib.figure import Figure

from lossbench.report.figures import lines
from lossbench.report.records import StudyRecords


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure 4."""
  endpoints, values = lines.layer_values(study, recipe, 'class_separation')
  figure = Figure(figsize=(9, 4.5), layout='constrained')
  axes = figure.subplots()
  lines.draw_layers(axes, endpoints, values)
  axes.set_ylabel('class separation (R²)')
  lines.add_legend(figure, axes)
  return figure
