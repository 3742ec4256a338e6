"""What a figure comes with: how many seeds and examples it is of."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.looks import Key
from lossbench.report.records import (
  Comparison,
  NotRun,
  RunRecords,
  StudyRecords,
)


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure of one group.

  Attributes:
    figure: to be written.
    sizes: numbers of seeds and examples, and what else its caption must say of
      this group alone.
  """

  figure: Figure
  sizes: str


def describe_sizes(
  keys: Iterable[Key], num_examples: Iterable[int], *, what: str = 'examples'
) -> str:
  """'3 seeds each, 355 examples'.

  Args:
    keys: of the runs that are drawn, one a run.
    num_examples: of each; 0 where that is unknown.
    what: the examples are.
  """
  seeds = display.span(list(Counter(keys).values()))
  sizes = [n for n in num_examples if n]
  text = f'{seeds} seed{"" if seeds == "1" else "s"} each'
  return f'{text}, {display.span(sizes)} {what}' if sizes else text


class Split(NamedTuple):
  """Which images representations are of.

  Attributes:
    title: of a panel.
    is_training: images that the network was trained on, as in the paper.
  """

  title: str
  is_training: bool


SPLITS = Split('training examples', True), Split('test split', False)


def measured_splits(
  study: StudyRecords,
  group: str,
  is_measured: Callable[[RunRecords, Split], bool],
) -> list[Split]:
  """Those of `SPLITS` that some run of a group was measured on.

  Raises:
    NotRun: if there is none.
  """
  found = [
    split
    for split in SPLITS
    if any(is_measured(run, split) for run in study.runs_of(group))
  ]
  if not found:
    raise NotRun(f'not run: {study.rerun_command}')
  return found


def describe_splits(
  study: StudyRecords,
  group: str,
  found: Sequence[tuple[Split, Iterable[Key], Iterable[int]]],
) -> str:
  """'3 seeds each, 50,000 training examples; 3 seeds each, 10,000 test examples'.

  Args:
    study: for the command, where training images are missing.
    group: that is drawn.
    found: split, and what `describe_sizes` takes, of each that is drawn.
  """
  texts = [
    describe_sizes(
      keys,
      sizes,
      what='training examples' if split.is_training else 'test examples',
    )
    for split, keys, sizes in found
  ]
  if not any(split.is_training for split, *_ in found):
    texts.append(study.how_to_measure_training(group))
  return '; '.join(texts)


def describe_comparison(comparison: Comparison) -> str:
  """The part of a caption that counts the predictions of a comparison."""
  return describe_sizes(
    comparison.keys, [comparison.num_examples], what='test examples'
  )
