# SPDX-License-Identifier: Apache-2.0
"""Slices of TPUs by name, and what Google Kubernetes Engine and the Cloud TPU API call
them.

A name is the Cloud's (v5litepod-16, v4-32) or a generation and its shape (v5e:4x4). The
Cloud counts TensorCores, two a chip, except of v5e and v6e, where it counts chips.
"""

import dataclasses
import math
import re

RECTANGLES = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
BOXES = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8'),
  *('8x8x16', '8x16x16', '16x16x16'),
)
PODS = ('2x2', '4x4', '8x8', '8x16', '16x16')  # of v2; v3 has larger ones
HOST_CHIPS = 4


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs.

  topologies: the shapes that accelerator types stand for; boxes with sides of multiples
  of 4 exist too, up to most_chips. cores: of a chip, as accelerator types count them.
  accelerator, machine: node selector and machine family of GKE, None if it has none.
  runtime: software version of TPU VMs, None if the Cloud TPU API serves none.
  """

  name: str
  prefix: str
  topologies: tuple[str, ...]
  cores: int
  most_chips: int
  accelerator: str | None
  machine: str | None
  runtime: str | None


# Sources: docs.cloud.google.com/tpu/docs, a page per generation and "TPU software
# versions"; docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
GENERATIONS = (
  Generation('v2', 'v2', PODS, 2, 256, None, None, 'tpu-ubuntu2204-base'),
  Generation(
    *('v3', 'v3', (*PODS, '16x32', '32x32'), 2, 1024),
    *(None, None, 'tpu-ubuntu2204-base'),
  ),
  Generation(
    *('v4', 'v4', BOXES, 2, 4096),
    *('tpu-v4-podslice', 'ct4p-hightpu', 'tpu-ubuntu2204-base'),
  ),
  Generation(
    *('v5e', 'v5litepod', RECTANGLES, 1, 256),
    *('tpu-v5-lite-podslice', 'ct5lp-hightpu', 'v2-alpha-tpuv5-lite'),
  ),
  Generation(
    *('v5p', 'v5p', BOXES, 2, 8960),
    *('tpu-v5p-slice', 'ct5p-hightpu', 'v2-alpha-tpuv5'),
  ),
  Generation(
    *('v6e', 'v6e', RECTANGLES, 1, 256),
    *('tpu-v6e-slice', 'ct6e-standard', 'v2-alpha-tpuv6e'),
  ),
  Generation(
    *('tpu7x', 'tpu7x', ('1x1x1', *BOXES), 2, 9216),
    *('tpu7x', 'tpu7x-standard', None),
  ),
)
_BY_NAME = {name: g for g in GENERATIONS for name in (g.name, g.prefix)}


@dataclasses.dataclass(frozen=True)
class Tpu:
  """A slice: its generation and its shape in chips."""

  generation: Generation
  topology: str

  @property
  def chips(self) -> int:
    return _chips(self.topology)

  @property
  def chips_per_host(self) -> int:
    return min(self.chips, HOST_CHIPS)

  @property
  def hosts(self) -> int:
    """Machines of GKE's node pool; a TPU VM of v5e may have eight chips instead."""
    return self.chips // self.chips_per_host

  @property
  def machine_type(self) -> str:
    """Of GKE's node pool."""
    return f'{self.generation.machine}-{self.chips_per_host}t'

  @property
  def accelerator_type(self) -> str | None:
    """The Cloud's name for it; None for a shape that no name stands for."""
    if self.topology not in self.generation.topologies:
      return None
    return f'{self.generation.prefix}-{self.chips * self.generation.cores}'


def parse(text: str) -> Tpu:
  """Reads `v5litepod-16` or `v6e:4x4`."""
  if not (match := re.fullmatch(r'(\w{2,9})(?:-(\d{1,5})|:([\dx]{3,15}))', text)):
    raise ValueError(f'{text}: a TPU is written like v5litepod-16 or v6e:4x4')
  name, size, topology = match.groups()
  if (generation := _BY_NAME.get(name)) is None:
    known = ', '.join(g.name for g in GENERATIONS)
    raise ValueError(f'{text}: no generation of TPUs is called {name}, only {known}')
  if size is None:
    _check_topology(text, generation, topology)
    return Tpu(generation, topology)
  slices = [Tpu(generation, topology) for topology in generation.topologies]
  for tpu in slices:
    if tpu.chips * generation.cores == int(size):
      return tpu
  names = ', '.join(str(tpu.accelerator_type) for tpu in slices)
  raise ValueError(f'{text}: the names for {generation.name} are {names}')


def _check_topology(text: str, generation: Generation, topology: str) -> None:
  if topology in generation.topologies:
    return
  is_box = generation.topologies[-1].count('x') == 2
  if is_box and re.fullmatch(r'[1-9]\d*x[1-9]\d*x[1-9]\d*', topology):
    multiples = all(int(side) % 4 == 0 for side in topology.split('x'))
    if multiples and _chips(topology) <= generation.most_chips:
      return
  shapes = ', '.join(generation.topologies)
  if is_box:
    shapes += f', and by multiples of 4 up to {generation.most_chips} chips'
  raise ValueError(f'{text}: the shapes of {generation.name} are {shapes}')


def _chips(topology: str) -> int:
  return math.prod(int(side) for side in topology.split('x'))
