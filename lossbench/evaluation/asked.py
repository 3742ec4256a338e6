"""What may be asked of an evaluation together; imports nothing that takes long."""

from collections.abc import Sequence


def check_ood_sets(split: str | None, ood_sets: Sequence[str]):
  """Refuses further data sets beside a split, which is evaluated alone.

  Args:
    split: the only one that is to be evaluated; None for all.
    ood_sets: names of further data sets.

  Raises:
    ValueError: if both are given.
  """
  if split is not None and ood_sets:
    raise ValueError(
      f'--ood_set={ood_sets[0]} is evaluated after the test split, without '
      f'--split={split}: give one or the other.'
    )
