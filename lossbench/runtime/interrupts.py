"""Ctrl-C while a program still imports: one line in place of a traceback.

Imports next to nothing, so that it can come first. What answers once the program
is at work is `stopping`.
"""

import os
import sys

EXIT_STATUS = 75  # EX_TEMPFAIL: run the same command again


def end_in_one_line():
  """Lets a KeyboardInterrupt that nobody answers end the program in one line."""
  sys.excepthook = _end


def _end(kind, error, traceback):
  if not issubclass(kind, KeyboardInterrupt):
    sys.__excepthook__(kind, error, traceback)
    return
  print('Stopped before anything was done.', file=sys.stderr, flush=True)
  os._exit(EXIT_STATUS)
