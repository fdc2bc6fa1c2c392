# SPDX-License-Identifier: Apache-2.0
"""Slices of TPUs: what a name stands for, what its chips can do, and its devices as the
compiler sees them, without any TPU.

A name is the Cloud's (v5litepod-16, v4-32) or a shape (v5e:4x4). In the Cloud's names
v4, v5p and tpu7x count TensorCores, two a chip, and v5e and v6e count chips.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

PRICES = 'US dollars per chip-hour on demand in the US, as listed in 2025'


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs; rates are of one chip and per second.

  flops: of bfloat16. gib: of memory that libtpu lets a program use. ici: bytes that
  all its links together receive. sides: of the largest slice. cores: TensorCores that
  the Cloud's names count for a chip. devices: of a chip, as JAX counts them.
  price: see `PRICES`; None where none is public.
  Sources: the Cloud's documentation, jax-ml/scaling-book; gib: libtpu itself.
  """

  name: str
  aliases: tuple[str, ...]
  flops: float
  gib: float
  hbm_rate: float
  ici: float
  sides: tuple[int, ...]
  cores: int
  devices: int
  chip_config: str
  price: float | None

  @property
  def hbm(self) -> int:
    """Bytes of memory."""
    return int(self.gib * (1 << 30))


GENERATIONS = (
  Generation(
    *('v4', (), 2.75e14, 30.75, 1.2e12, 2.7e11),
    *((16, 16, 16), 2, 1, 'megacore', 3.22),
  ),
  Generation(
    *('v5e', ('v5litepod',), 1.97e14, 15.75, 8.1e11, 1.8e11),
    *((16, 16), 1, 1, 'default', 1.20),
  ),
  Generation(
    *('v5p', (), 4.59e14, 95.74, 2.765e12, 5.4e11),
    *((16, 20, 28), 2, 1, 'megacore', 4.20),
  ),
  Generation(
    *('v6e', (), 9.18e14, 31.25, 1.638e12, 3.6e11),
    *((16, 16), 1, 1, 'default', 2.70),
  ),
  Generation(
    *('tpu7x', ('v7x',), 2.307e15, 189.5, 7.38e12, 6e11),
    *((16, 24, 24), 2, 2, 'default', None),
  ),
)
ALL = ('v4-32', 'v5e-16', 'v5p-32', 'v6e-16', 'tpu7x-16')


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips of one generation, in a rectangle or a box."""

  generation: Generation
  shape: tuple[int, ...]

  def __str__(self) -> str:
    return f'{self.generation.name}:{"x".join(map(str, self.shape))}'

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  def devices(self, num_slices: int = 1) -> Sequence:
    """What can be compiled for but not run on; ValueError if libtpu knows no such."""
    _quieten()
    try:
      found = topologies.get_topology_desc(
        str(self),
        'tpu',
        chip_config_name=self.generation.chip_config,
        num_slices=num_slices,
      )
    except jax.errors.JaxRuntimeError as error:
      raise ValueError(f'{self}: libtpu knows no such slice ({error})') from None
    except (ImportError, RuntimeError) as error:
      raise ValueError(
        f'there is no compiler for TPUs ({error}): pip install acl_jax[tpu]'
      ) from None
    return found.devices


def parse(name: str) -> Slice:
  """The slice of a name; ValueError says what is wrong with it."""
  match = re.fullmatch(r'([a-z]+\d*[a-z]*)(?:-(\d{1,5})|:(\d+(?:x\d+)*))', name.lower())
  if not match:
    raise ValueError(
      f'topology {name!r}: write a type such as v5e-16, or a shape such as v5e:4x4'
    )
  generation = _generation(match[1], name)
  if match[2]:
    return Slice(generation, _shape_of(generation, int(match[2]), name))
  shape = tuple(map(int, match[3].split('x')))
  sides = generation.sides
  if len(shape) != len(sides):
    what = 'rectangle' if len(sides) == 2 else 'box'
    raise ValueError(
      f'topology {name!r} has {len(shape)} sides; a slice of {generation.name} is a'
      f' {what} of {len(sides)}, such as {Slice(generation, _shapes(generation)[3])}'
    )
  if any(not 0 < side <= most for side, most in zip(sorted(shape), sides, strict=True)):
    raise ValueError(
      f'topology {name!r}: a slice is {Slice(generation, sides)} at most'
    )
  return Slice(generation, shape)


def _generation(kind: str, name: str) -> Generation:
  for generation in GENERATIONS:
    if kind in (generation.name, *generation.aliases):
      return generation
  known = ', '.join(generation.name for generation in GENERATIONS)
  raise ValueError(f'topology {name!r}: no generation {kind!r}; known: {known}')


def _shapes(generation: Generation) -> list[tuple[int, ...]]:
  """The usual shapes, each twice as large as the one before."""
  sides, shapes = generation.sides, []
  shape = [1] * len(sides) if len(sides) == 2 else [2, 2, 1]
  while True:
    shapes.append(tuple(sorted(shape)) if len(sides) == 2 else tuple(shape))
    grows = [i for i, side in enumerate(shape) if 2 * side <= sides[i]]
    if not grows:
      return shapes
    # The shortest side doubles, the last of several.
    shape[min(grows, key=lambda i: (shape[i], -i))] *= 2


def _shape_of(generation: Generation, count: int, name: str) -> tuple[int, ...]:
  sizes = {math.prod(shape) * generation.cores: shape for shape in _shapes(generation)}
  if count not in sizes:
    raise ValueError(
      f'topology {name!r} is not a rectangle; sizes of {generation.name}:'
      f' {", ".join(map(str, sizes))}; others by their shape, such as'
      f' {Slice(generation, _shapes(generation)[3])}'
    )
  return sizes[count]


def _quieten() -> None:
  """Keeps libtpu from looking for a TPU's machine, and from telling of it."""
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-16'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_STDERR_LOG_LEVEL', '3'),
    ('TPU_MIN_LOG_LEVEL', '3'),
    ('TF_CPP_MIN_LOG_LEVEL', '3'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)
