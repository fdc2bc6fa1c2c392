# SPDX-License-Identifier: Apache-2.0
"""What chips tell each other, read from the text of a compiled program (HLO)."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_INSTRUCTION = re.compile(r'\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)')
_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) .*\{$')
_ARRAY = re.compile(r'([a-z]+)(\d*)(?:[a-z]\w*)?\[([\d,]*)\]')
_CALLED = re.compile(r'(\w+)=(?:%([\w.-]+)|\{(%[^}]*)\})')
_CALLS = {'calls', 'to_apply', 'body', 'branch_computations', 'called_computations'}
_LIMIT = re.compile(r's32\[\]\S* constant\((\d+)\)')
_GROUPS = re.compile(
  r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[(.*?)\] \{(.*?)\})'
)
_CHANNEL = re.compile(r'channel_id=(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
  """An array's type: what it is made of, how many bits each, and how many."""

  kind: str
  bits: int
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    return -(-math.prod(self.shape) * self.bits // 8)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a program.

  result: the largest array that a chip has afterwards. group: how many chips take part;
  0 if it is all of them or unknown. times: how often it runs in a step.
  channel: 0 if it has none. source: the path of JAX names that it comes from.
  """

  kind: str
  result: Array
  group: int
  times: int
  channel: int
  source: str

  def received(self, chips: int) -> int:
    """Bytes that a chip receives in a step, at least, whatever the algorithm."""
    others = (group := self.group or chips) - 1
    once = self.result.bytes
    if self.kind == 'reduce-scatter':
      once *= others  # the result is a share of what was reduced
    elif self.kind == 'all-reduce':
      once = 2 * once * others // group
    elif self.kind != 'collective-permute':
      once = once * others // group
    return once * self.times


@dataclasses.dataclass
class _Computation:
  """limit: of a loop, if this is its condition. calls: others, and their conditions."""

  collectives: list[Collective]
  calls: list[tuple[str, str]]
  limit: int = 1


def collectives(text: str) -> list[Collective]:
  """All that a program's text has, with how often each runs.

  A loop runs until its counter reaches the constant of its condition; if there is none,
  it counts as one round.
  """
  computations, entry = _computations(text)
  times = _times(computations, entry)
  alone: list[Collective] = []
  of_channel: dict[tuple[str, int], Collective] = {}
  for name, computation in computations.items():
    for found in computation.collectives:
      found = dataclasses.replace(found, times=max(1, times[name]))
      if found.channel:  # one that runs behind several others is written with each
        of_channel.setdefault((found.kind, found.channel), found)
      else:
        alone.append(found)
  return [*alone, *of_channel.values()]


def counted(found: list[Collective]) -> dict[str, int]:
  """How many operations there are of each kind."""
  return dict(sorted(collections.Counter(each.kind for each in found).items()))


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
  """Every computation of a module by name, and the name of the first to run."""
  computations, entry = {}, ''
  current = _Computation([], [])
  for line in text.splitlines():
    if match := _INSTRUCTION.match(line):
      _read(current, *match.groups())
      if limit := _LIMIT.search(line):
        current.limit = max(current.limit, int(limit[1]))
    elif match := _HEADER.match(line):
      current = computations[match[2]] = _Computation([], [])
      entry = match[2] if match[1] else entry
  return computations, entry


def _read(computation: _Computation, result: str, operation: str, rest: str) -> None:
  if operation.endswith(('-done', '-update')):
    return  # it started elsewhere
  kind = operation.removesuffix('-start')
  if kind in KINDS:
    largest = max(arrays(result), key=lambda array: array.bytes, default=None)
    computation.collectives.append(
      Collective(
        *(kind, largest or Array('', 0, ()), _group(rest), 1),
        *(int(_found(_CHANNEL, rest) or 0), _found(_SOURCE, rest)),
      )
    )
  called = _CALLED.findall(rest)
  condition = next((one for key, one, _ in called if key == 'condition'), '')
  for key, one, several in called:
    if key in _CALLS:
      for name in [one] if one else re.findall(r'%([\w.-]+)', several):
        computation.calls.append((name, condition))


def arrays(result: str) -> Iterator[Array]:
  """The arrays in the type of a result, which may be a tuple."""
  for letters, digits, shape in _ARRAY.findall(result):
    bits = int(digits or 8)  # pred has none
    yield Array(letters + digits, bits, tuple(map(int, filter(None, shape.split(',')))))


def _group(rest: str) -> int:
  if not (match := _GROUPS.search(rest)):
    return 0
  size, members, axes, along = match.groups()
  if axes is None:
    return int(size or len(members.split(',')))
  sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes))
  return math.prod(int(sizes.get(axis, 1)) for axis in re.findall(r"'(\w+)'", along))


def _found(pattern: re.Pattern[str], rest: str) -> str:
  match = pattern.search(rest)
  return match[1] if match else ''


def _times(computations: Mapping[str, _Computation], entry: str) -> dict[str, int]:
  """How often each computation runs."""
  times: dict[str, int] = collections.defaultdict(int)
  # A module lists a computation before those that call it.
  times[entry] = 1
  for name in reversed(list(computations)):
    for called, condition in computations[name].calls:
      rounds = computations[condition].limit if condition in computations else 1
      times[called] += times[name] * rounds
  return times
