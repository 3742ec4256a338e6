"""A program of two processes, one of which is late for their first collective.

python -m tests.faults.late --coordinator=...
"""

import time

from lossbench import cli
from lossbench.runtime.processes import everywhere

_SECS = 35  # Gloo waits for 30


def main(arguments):
  del arguments
  import jax

  if jax.process_index() == 1:
    time.sleep(_SECS)
  assert everywhere(True)


if __name__ == '__main__':
  cli.run(main, on_cluster=True)
