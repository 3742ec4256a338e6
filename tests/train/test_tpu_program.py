"""The training step of a small model, compiled by the TPU's own compiler."""

import importlib.util
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is not installed (pip install 'lossbench[tpu]')",
)
def test_a_step_compiles_for_a_tpu_and_reduces_only_where_devices_share(root):
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.tpu_program', '--topology=v5e:2x2'),
      *('--case=train/digits_cnn', '--case=alone/digits_cnn'),
    ],
    cwd=root,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  shared, alone = (
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in result.stdout.splitlines()[2:]
  )
  assert shared[:3] == ['train/digits_cnn', 'v5e:2x2', '4 x 25']
  assert alone[:3] == ['alone/digits_cnn', 'v5e:2x2', '4 x 100']
  flops = [float(row[3]) for row in (shared, alone)]
  assert flops[0] == pytest.approx(flops[1], rel=0.1)
  assert int(shared[6].partition(':')[0]) >= 1
  assert alone[6].startswith('0: 0.0 MB')
