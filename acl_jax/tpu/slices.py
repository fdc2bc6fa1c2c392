# SPDX-License-Identifier: Apache-2.0
"""Slices of TPUs by name: which shapes of which chips there are to rent.

A name is the Cloud's (v5litepod-16, v4-32) or a generation and its shape (v5e:4x4). The
Cloud counts TensorCores, two a chip, except of v5e and v6e, where it counts chips.
Sources: docs.cloud.google.com/tpu/docs, a page per generation.
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


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs.

  prefix: of the Cloud's names. topologies: the shapes that such names stand for; boxes
  with sides of multiples of 4 exist too, up to most_chips. cores: of a chip, as the
  names count them.
  """

  name: str
  prefix: str
  topologies: tuple[str, ...]
  cores: int
  most_chips: int


GENERATIONS = (
  Generation('v2', 'v2', PODS, 2, 256),
  Generation('v3', 'v3', (*PODS, '16x32', '32x32'), 2, 1024),
  Generation('v4', 'v4', BOXES, 2, 4096),
  Generation('v5e', 'v5litepod', RECTANGLES, 1, 256),
  Generation('v5p', 'v5p', BOXES, 2, 8960),
  Generation('v6e', 'v6e', RECTANGLES, 1, 256),
  Generation('tpu7x', 'tpu7x', ('1x1x1', *BOXES), 2, 9216),
)
_BY_NAME = {name: g for g in GENERATIONS for name in (g.name, g.prefix)}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips of one generation, in a rectangle or a box."""

  generation: Generation
  topology: str

  def __str__(self) -> str:
    return f'{self.generation.name}:{self.topology}'

  @property
  def chips(self) -> int:
    return _chips(self.topology)

  @property
  def accelerator_type(self) -> str | None:
    """The Cloud's name for it; None for a shape that no name stands for."""
    if self.topology not in self.generation.topologies:
      return None
    return f'{self.generation.prefix}-{self.chips * self.generation.cores}'


def parse_slice(text: str) -> Slice:
  """Reads `v5litepod-16` or `v6e:4x4`; ValueError says what is wrong with it."""
  match = re.fullmatch(r'(\w{2,9})(?:-(\d{1,5})|:([\dx]{3,15}))', text.lower())
  if not match:
    raise ValueError(f'{text}: a TPU is written like v5litepod-16 or v6e:4x4')
  name, size, topology = match.groups()
  if (generation := _BY_NAME.get(name)) is None:
    known = ', '.join(g.name for g in GENERATIONS)
    raise ValueError(f'{text}: no generation of TPUs is called {name}, only {known}')
  if size is None:
    _check_topology(text, generation, topology)
    return Slice(generation, topology)
  slices = [Slice(generation, topology) for topology in generation.topologies]
  for slice in slices:
    if slice.chips * generation.cores == int(size):
      return slice
  names = ', '.join(str(slice.accelerator_type) for slice in slices)
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
