"""A program of several processes, of which the first cannot see a signal.

python -m tests.faults.waiting --coordinator=... : its main thread waits in a
collective for the others, who sleep.
"""

import time

from lossbench import cli
from lossbench.runtime.processes import everywhere


def main(arguments):
  del arguments
  import jax

  everywhere(True)  # compiled, so that what follows is waiting
  print('waiting', flush=True)
  if jax.process_index() == 0:
    everywhere(True)
  time.sleep(120)


if __name__ == '__main__':
  cli.run(main, on_cluster=True)
