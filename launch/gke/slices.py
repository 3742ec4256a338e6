"""TPU slices of GKE: which nodes they are made of.

From Google's table of TPU slices in GKE: accelerator (node label
cloud.google.com/gke-tpu-accelerator), topology, chips of a host, hosts.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class TpuSlice:
  """What a slice asks of the scheduler.

  Attributes:
    name: as on the command line, 'v5e-64'.
    accelerator: label of its nodes.
    topology: of its chips, '8x8'.
    chips_per_host: what a pod asks for.
    num_hosts: pods of a job.
  """

  name: str
  accelerator: str
  topology: str
  chips_per_host: int
  num_hosts: int


def _slice(generation, accelerator, topology, chips_per_host):
  chips = math.prod(map(int, topology.split('x')))
  # v3 and v4 are called after their cores, of which a chip has two.
  count = chips * (2 if generation in ('v3', 'v4') else 1)
  return TpuSlice(
    name=f'{generation}-{count}',
    accelerator=accelerator,
    topology=topology,
    chips_per_host=min(chips, chips_per_host),
    num_hosts=max(1, chips // chips_per_host),
  )


_TOPOLOGIES = {
  ('v3', 'tpu-v3-slice'): ('4x4', '4x8', '8x8', '8x16', '16x16'),
  ('v4', 'tpu-v4-podslice'): ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4'),
  ('v5e', 'tpu-v5-lite-podslice'): (
    '2x2',
    '2x4',
    '4x4',
    '4x8',
    '8x8',
    '8x16',
    '16x16',
  ),
  ('v6e', 'tpu-v6e-slice'): (
    '2x2',
    '2x4',
    '4x4',
    '4x8',
    '8x8',
    '8x16',
    '16x16',
  ),
}

SLICES = {
  tpu.name: tpu
  for (generation, accelerator), topologies in _TOPOLOGIES.items()
  for topology in topologies
  for tpu in [_slice(generation, accelerator, topology, 4)]
}


def get_slice(name: str) -> TpuSlice:
  """Looks a slice up; an unknown name raises ValueError with the known."""
  if name not in SLICES:
    raise ValueError(f'Unknown TPU {name!r}. Known: {", ".join(SLICES)}.')
  return SLICES[name]
