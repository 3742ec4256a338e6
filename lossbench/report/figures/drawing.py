"""What a figure comes with: how many seeds and examples it is of."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.looks import Key
from lossbench.report.records import Comparison


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


def describe_comparison(comparison: Comparison) -> str:
  """The part of a caption that counts the predictions of a comparison."""
  return describe_sizes(
    comparison.keys, [comparison.num_examples], what='test examples'
  )
