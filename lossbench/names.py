"""Names that somebody mistyped. Imports the standard library only, for all."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """ "Did you mean 'sigmoid'?" of 'sigmiod'; '' if no known name is close."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f'Did you mean {close[0]!r}?' if close else ''
