"""Workers of a study and the cores that they share."""

import os

import pytest

from lossbench.study import pool

NAMES = 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'XLA_FLAGS'


@pytest.fixture
def cores(monkeypatch):
  """Sets the number of cores; what the user has chosen is OMP_NUM_THREADS."""
  for name in NAMES:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('OMP_NUM_THREADS', '3')
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(8))


@pytest.mark.parametrize(
  ('num_workers', 'threads', 'flags'),
  [
    (1, None, None),
    (2, '4', None),
    (8, '1', ' --xla_cpu_multi_thread_eigen=false'),
    (9, '1', ' --xla_cpu_multi_thread_eigen=false'),
  ],
)
def test_workers_have_a_share_of_the_threads(
  cores, num_workers, threads, flags
):
  with pool._cores_shared(num_workers):
    found = [os.environ.get(name) for name in NAMES]
  assert found == ['3', threads, flags]
  assert [os.environ.get(name) for name in NAMES] == ['3', None, None]
