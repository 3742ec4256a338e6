"""A few faults at random moments; an hour of them: python -m tests.faults.chaos."""

import numpy as np
import pytest

from tests.faults import chaos
from tests.faults.processes import start


@pytest.mark.slow
def test_a_run_survives_a_few_faults(tmp_path):
  """With this seed kill -9, a damaged checkpoint and SIGTERM."""
  found = chaos.run_chaos(num_faults=3, seed=36, root=tmp_path, names=('run',))
  assert found.failures == []
  assert found.survived == found.injected
  assert found.injected.total() == 3
  assert found.identical == found.runs


@pytest.mark.parametrize(
  ('program', 'result', 'failure'),
  [
    ('pass', 2.0, 'the result is another one'),
    ('import sys; sys.exit("broken")', 1.0, 'it ends with [1]: broken'),
    ('pass', 1.0, ''),
  ],
)
def test_what_is_not_survived_counts(program, result, failure, tmp_path):
  def start_program(workdir, logs):
    return [start('-c', program, num_devices=1, log=logs / '0.log')]

  subject = chaos.Subject(
    'program', start_program, lambda workdir: [np.full(2, result)], 0, ''
  )
  found = chaos.Chaos(num_faults=1, seed=0, root=tmp_path)
  found.disturb(subject, [np.ones(2)], number=1, last=0)
  assert [failure in text for text in found.failures] == [True] * bool(failure)
  assert found.identical['program'] == (not failure)
