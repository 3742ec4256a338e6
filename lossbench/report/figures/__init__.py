"""The paper's figures: one file a figure."""

import dataclasses
from collections.abc import Callable

from lossbench.report.figures import (
  agreement,
  cka,
  corruptions,
  distances,
  ensembles,
  hardness,
  reliability,
  separation,
  sparsity,
  spectra,
  tradeoff,
  training,
  transfer,
)
from lossbench.report.figures.drawing import Drawing
from lossbench.report.records import StudyRecords


@dataclasses.dataclass(frozen=True)
class FigureSpec:
  """A figure of the report.

  Attributes:
    name: of its files.
    title: its heading.
    caption: its explanation.
    draw: (study, group) -> drawing; raises NotRun where records are missing.
  """

  name: str
  title: str
  caption: str
  draw: Callable[[StudyRecords, str], Drawing]


# In the paper's order, then ours.
FIGURES = (
  FigureSpec(
    'figure_1',
    'Figure 1: different losses produce different predictions',
    'a: share of test examples with the same top-1 prediction, for every pair of '
    'runs. b: average-linkage clustering of 1 − that share.',
    agreement.draw_same_top1,
  ),
  FigureSpec(
    'figure_2',
    'Figure 2: sparsity',
    'Share of non-zero activations by layer, on the test split; mean and standard '
    'error over seeds.',
    sparsity.draw,
  ),
  FigureSpec(
    'figure_3',
    'Figure 3: similarity of representations',
    'CKA on the test split, of spatial averages (linear, exact) and of whole '
    'feature maps (unbiased, in minibatches), which differ most in early layers. '
    'a: between the layers of two initialisations. b: between corresponding '
    'layers of objectives, mean over pairs of runs of different seeds (those of '
    'one seed start from the same weights); each layer’s two panels share a '
    'scale. The spatial average of the last block is the features: one number '
    'twice.',
    cka.draw,
  ),
  FigureSpec(
    'figure_4',
    'Figure 4: class separation by layer',
    'R² (eq. 11) of spatial averages, on training images as in the paper and on the '
    'test split; mean and standard error over seeds. The spatial average of the '
    'last block is the features, and drawn once.',
    separation.draw,
  ),
  FigureSpec(
    'figure_5',
    'Figure 5: transfer against the relearned source task',
    'Mean accuracy on the data sets transferred to, against accuracy of the '
    'classifier relearned on the source task; mean and standard error over seeds, '
    'each of which has both.',
    transfer.draw,
  ),
  FigureSpec(
    'figure_d1',
    'Figure D.1: right and wrong together',
    'a: share of test examples that both get right or both get wrong. b: of those '
    'both get wrong, the share with the same prediction. c: how many those are.',
    agreement.draw_right_and_wrong,
  ),
  FigureSpec(
    'figure_d2',
    'Figure D.2: agreement of ensembles',
    'a: share of test examples with the same top-1 prediction of the ensembles of '
    'all seeds of two objectives. b: clustering of 1 − that share.',
    ensembles.draw_agreement,
  ),
  FigureSpec(
    'figure_d3',
    'Figure D.3: accuracy of ensembles',
    'Probabilities averaged, each by its objective’s own map. Two objectives: as '
    'many members as one has seeds, half of them of each; of an odd number the '
    'mean of both ways to divide it.',
    ensembles.draw_accuracy,
  ),
  FigureSpec(
    'figure_e1',
    'Figure E.1: angular visual hardness',
    'a: over at most 10,000 test examples. b: mean over the test split; bars: mean '
    'and standard error over seeds; dots: seeds.',
    hardness.draw,
  ),
  FigureSpec(
    'figure_e2',
    'Figure E.2: singular value spectra',
    'Relative to the largest, mean over seeds; what rounding leaves of zeros is '
    'not drawn. Features and centroids are centred, of training images as in the '
    'paper and of the test split. Dead units, which are 0 on every example, are '
    'directions that no feature has.',
    spectra.draw,
  ),
  FigureSpec(
    'figure_e3',
    'Figure E.3: cosine distances',
    'Densities of the cosine distance between penultimate features of pairs of '
    'examples, of training images as in the paper and of the test split, linear '
    'and logarithmic; seeds pooled; Gaussian kernels of 1.06 s n^(−1/5).',
    distances.draw,
  ),
  FigureSpec(
    'figure_tradeoff',
    'Class separation against transfer (later edition)',
    'The central claim: accuracy on each data set against R² of training examples, '
    'by the linear probe, k nearest neighbours and full fine-tuning; mean and '
    'standard error over seeds. ρ: Spearman’s rank correlation over objectives and '
    'its 95 % interval, by bootstrap over seeds and, where they are known, examples.',
    tradeoff.draw,
  ),
  FigureSpec(
    'figure_corruptions',
    'Corruptions and severities (beyond the paper)',
    'Top-1 accuracy under each corruption, by severity; mean and standard error over '
    'seeds.',
    corruptions.draw,
  ),
  FigureSpec(
    'figure_reliability',
    'Reliability (beyond the paper)',
    'Accuracy against confidence in 15 bins on the test split; areas are shares '
    'of examples; seeds pooled.',
    reliability.draw,
  ),
  FigureSpec(
    'figure_training',
    'Training curves (beyond the paper)',
    'Accuracy and NLL on the holdout at every evaluation, a line for each run.',
    training.draw,
  ),
)
