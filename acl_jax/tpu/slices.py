# SPDX-License-Identifier: Apache-2.0
"""TPU slices by name: the generations and topologies that can be rented.

A name is the Cloud's (v5litepod-16, v4-32) or a generation with its topology (v5e:4x4).
The Cloud's names count TensorCores, two per chip, except for v5e and v6e, where they
count chips. Sources: docs.cloud.google.com/tpu/docs, one page per generation.
"""

import dataclasses
import math
import re

# fmt: off
V2_TOPOLOGIES = ('2x2', '4x4', '8x8', '8x16', '16x16')  # v3 has larger ones, too
TOPOLOGIES_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
TOPOLOGIES_3D = (
  '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16',
  '8x16x16', '16x16x16',
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs.

  Attributes:
    name: As in `v5e:4x4`.
    prefix: Of the Cloud's names.
    topologies: Those that have a name in the Cloud. In 3D, any other whose sides are
      multiples of 4 can be rented, too, up to `most_chips`.
    cores: Per chip, as the Cloud's names count them.
    most_chips: In the largest slice.
  """

  name: str
  prefix: str
  topologies: tuple[str, ...]
  cores: int
  most_chips: int


GENERATIONS = (
  Generation('v2', 'v2', V2_TOPOLOGIES, 2, 256),
  Generation('v3', 'v3', (*V2_TOPOLOGIES, '16x32', '32x32'), 2, 1024),
  Generation('v4', 'v4', TOPOLOGIES_3D, 2, 4096),
  Generation('v5e', 'v5litepod', TOPOLOGIES_2D, 1, 256),
  Generation('v5p', 'v5p', TOPOLOGIES_3D, 2, 8960),
  Generation('v6e', 'v6e', TOPOLOGIES_2D, 1, 256),
  Generation('tpu7x', 'tpu7x', ('1x1x1', *TOPOLOGIES_3D), 2, 9216),
)
_BY_NAME = {name: g for g in GENERATIONS for name in (g.name, g.prefix)}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips of one generation in a 2D or 3D topology."""

  generation: Generation
  topology: str

  def __str__(self) -> str:
    return f'{self.generation.name}:{self.topology}'

  @property
  def chips(self) -> int:
    return _num_chips(self.topology)

  @property
  def accelerator_type(self) -> str | None:
    """The Cloud's name; None for a topology that has none."""
    if self.topology not in self.generation.topologies:
      return None
    return f'{self.generation.prefix}-{self.chips * self.generation.cores}'


def parse_slice(text: str) -> Slice:
  """Parse `v5litepod-16` or `v6e:4x4`; ValueError lists the names that exist."""
  match = re.fullmatch(r'(\w{2,9})(?:-(\d{1,5})|:([\dx]{3,15}))', text.lower())
  if not match:
    raise ValueError(f'{text}: not a TPU slice; write it like v5litepod-16 or v6e:4x4')
  name, size, topology = match.groups()
  if (generation := _BY_NAME.get(name)) is None:
    known = ', '.join(g.name for g in GENERATIONS)
    raise ValueError(f'{text}: unknown TPU generation {name}; known are {known}')
  if size is None:
    _check_topology(text, generation, topology)
    return Slice(generation, topology)
  slices = [Slice(generation, topology) for topology in generation.topologies]
  for slice in slices:
    if slice.chips * generation.cores == int(size):
      return slice
  names = ', '.join(str(slice.accelerator_type) for slice in slices)
  raise ValueError(
    f'{text}: no such slice; the names for {generation.name} are {names}'
  )


def _check_topology(text: str, generation: Generation, topology: str) -> None:
  if topology in generation.topologies:
    return
  is_3d = generation.topologies[-1].count('x') == 2
  if is_3d and re.fullmatch(r'[1-9]\d*x[1-9]\d*x[1-9]\d*', topology):
    multiples_of_4 = all(int(side) % 4 == 0 for side in topology.split('x'))
    if multiples_of_4 and _num_chips(topology) <= generation.most_chips:
      return
  known = ', '.join(generation.topologies)
  if is_3d:
    known += f', and multiples of 4 up to {generation.most_chips} chips'
  raise ValueError(
    f'{text}: no such slice; the topologies of {generation.name} are {known}'
  )


def _num_chips(topology: str) -> int:
  return math.prod(int(side) for side in topology.split('x'))
