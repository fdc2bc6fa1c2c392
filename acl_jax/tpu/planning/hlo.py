# SPDX-License-Identifier: Apache-2.0
"""Collectives of a compiled program, parsed from its text (HLO)."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

COLLECTIVE_KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_INSTRUCTION = re.compile(r'\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)')
_COMPUTATION_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) .*\{$')
_ARRAY = re.compile(r'([a-z]+)(\d*)(?:[a-z]\w*)?\[([\d,]*)\]')
_CALLEES = re.compile(r'(\w+)=(?:%([\w.-]+)|\{(%[^}]*)\})')
_CALL_ATTRIBUTES = {
  'branch_computations',
  'body',
  'called_computations',
  'calls',
  'to_apply',
}
_LOOP_BOUND = re.compile(r's32\[\]\S* constant\((\d+)\)')
_REPLICA_GROUPS = re.compile(
  r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[(.*?)\] \{(.*?)\})'
)
_CHANNEL = re.compile(r'channel_id=(\d+)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class ArrayType:
  """The type of an array: element type, bits of an element, and shape."""

  dtype: str
  bits: int
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    return -(-math.prod(self.shape) * self.bits // 8)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a program.

  Attributes:
    kind: One of `COLLECTIVE_KINDS`.
    result: The largest array that a chip holds afterwards.
    group_size: How many chips take part; 0 if all do, or if it is unknown.
    executions: How often it runs in a step.
    channel: Its channel id; 0 if it has none.
    source: The path of JAX names that it was lowered from.
  """

  kind: str
  result: ArrayType
  group_size: int
  executions: int
  channel: int
  source: str

  def bytes_received(self, chips: int) -> int:
    """Lower bound on the bytes a chip receives in a step, for any algorithm."""
    group_size = self.group_size or chips
    peers = group_size - 1
    size = self.result.bytes
    if self.kind == 'reduce-scatter':
      size *= peers  # the result is one chip's share of what is reduced
    elif self.kind == 'all-reduce':
      size = 2 * size * peers // group_size
    elif self.kind != 'collective-permute':
      size = size * peers // group_size
    return size * self.executions


@dataclasses.dataclass
class _Computation:
  """A computation of the module.

  Attributes:
    collectives: The collectives among its instructions.
    calls: Names of the computations it calls, each with the name of its loop condition
      ('' outside loops).
    loop_bound: Rounds of the loop whose condition this computation is.
  """

  collectives: list[Collective]
  calls: list[tuple[str, str]]
  loop_bound: int = 1


def parse_collectives(text: str) -> list[Collective]:
  """Return all collectives of a program's text, with how often each runs.

  A loop runs until its counter reaches the constant in its condition; a loop without
  such a constant counts as one round.
  """
  computations, entry = _parse_computations(text)
  executions = _count_executions(computations, entry)
  without_channel: list[Collective] = []
  by_channel: dict[tuple[str, int], Collective] = {}
  for name, computation in computations.items():
    for collective in computation.collectives:
      collective = dataclasses.replace(collective, executions=max(1, executions[name]))
      if collective.channel:
        # An operation fused with several others is written once for each of them.
        by_channel.setdefault((collective.kind, collective.channel), collective)
      else:
        without_channel.append(collective)
  return [*without_channel, *by_channel.values()]


def count_by_kind(collectives: list[Collective]) -> dict[str, int]:
  """Return the number of operations of each kind."""
  counts = Counter(collective.kind for collective in collectives)
  return dict(sorted(counts.items()))


def _parse_computations(text: str) -> tuple[dict[str, _Computation], str]:
  """Return every computation of a module by name, and the name of the entry."""
  computations, entry = {}, ''
  current = _Computation([], [])
  for line in text.splitlines():
    if match := _INSTRUCTION.match(line):
      _add_instruction(current, *match.groups())
      if bound := _LOOP_BOUND.search(line):
        current.loop_bound = max(current.loop_bound, int(bound[1]))
    elif match := _COMPUTATION_HEADER.match(line):
      current = computations[match[2]] = _Computation([], [])
      entry = match[2] if match[1] else entry
  return computations, entry


def _add_instruction(
  computation: _Computation, result: str, operation: str, rest: str
) -> None:
  """Add an instruction's collective and calls to its computation."""
  if operation.endswith(('-done', '-update')):
    return  # counted at its -start
  kind = operation.removesuffix('-start')
  if kind in COLLECTIVE_KINDS:
    largest = max(parse_arrays(result), key=lambda array: array.bytes, default=None)
    computation.collectives.append(
      Collective(
        kind,
        largest or ArrayType('', 0, ()),
        _group_size(rest),
        executions=1,
        channel=int(_first_match(_CHANNEL, rest) or 0),
        source=_first_match(_OP_NAME, rest),
      )
    )
  callees = _CALLEES.findall(rest)
  condition = next((name for key, name, _ in callees if key == 'condition'), '')
  for key, name, names in callees:
    if key in _CALL_ATTRIBUTES:
      for callee in [name] if name else re.findall(r'%([\w.-]+)', names):
        computation.calls.append((callee, condition))


def parse_arrays(result: str) -> Iterator[ArrayType]:
  """Yield the arrays in the type of a result, which may be a tuple."""
  for letters, digits, dims in _ARRAY.findall(result):
    bits = int(digits or 8)  # `pred` has no digits
    shape = tuple(map(int, filter(None, dims.split(','))))
    yield ArrayType(letters + digits, bits, shape)


def _group_size(rest: str) -> int:
  if not (match := _REPLICA_GROUPS.search(rest)):
    return 0
  size, members, mesh_axes, group_axes = match.groups()
  if mesh_axes is None:
    return int(size or len(members.split(',')))
  sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh_axes))
  axes = re.findall(r"'(\w+)'", group_axes)
  return math.prod(int(sizes.get(axis, 1)) for axis in axes)


def _first_match(pattern: re.Pattern[str], rest: str) -> str:
  match = pattern.search(rest)
  return match[1] if match else ''


def _count_executions(
  computations: Mapping[str, _Computation], entry: str
) -> dict[str, int]:
  """Return how often each computation runs."""
  executions: dict[str, int] = defaultdict(int)
  executions[entry] = 1
  # A module lists a computation before its callers.
  for name in reversed(list(computations)):
    for callee, condition in computations[name].calls:
      rounds = computations[condition].loop_bound if condition in computations else 1
      executions[callee] += executions[name] * rounds
  return executions
