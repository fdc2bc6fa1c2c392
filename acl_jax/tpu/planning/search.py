# SPDX-License-Identifier: Apache-2.0
"""Which mesh, which remat and how large a batch: what is worth trying on a slice."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_collections

from acl_jax.tpu.planning.report import PlanRequest
from acl_jax.tpu.topologies import chip_of

TENSOR = (1, 2, 4, 8)
ROWS = (1, 2, 4, 8, 16, 32)  # of a chip
# From the one that keeps least in memory to the one that keeps everything.
POLICIES = ('full', 'dots', None)


class Candidate(NamedTuple):
  """What a search may change of a config."""

  data: int
  fsdp: int
  tensor: int
  sharding: str
  remat: str | None
  rows_per_chip: int


def meshes(chips: int, llm: bool) -> Iterator[tuple[int, int, int, str]]:
  """Axes and the LLM's sharding: in pieces, or whole and only cut by `tensor`."""
  for tensor in TENSOR:
    if chips % tensor == 0:
      if llm:
        yield 1, chips // tensor, tensor, 'fsdp'
      yield chips // tensor, 1, tensor, 'replicated'


def search(
  question: PlanRequest, plan: Callable[[PlanRequest], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
  """Plans, for every mesh and policy, until the largest batch that fits is found.

  The middle of the sizes left is tried next. What keeps more in memory is tried with no
  more rows than what keeps less. Meshes whose axes do not divide are left out;
  ValueError if all are.
  """
  found, refused = None, ValueError('there is no mesh to try')
  chips = question.slice.chips * chip_of(question.slice).devices
  for mesh in meshes(chips, 'llama' in question.config):
    sizes = ROWS
    for remat in POLICIES if 'remat' in question.stage else (None,):
      fitting, too_many = 0, len(sizes)
      while fitting < too_many:
        middle = (fitting + too_many) // 2
        candidate = Candidate(*mesh, remat, sizes[middle])
        try:
          found = plan(changed(question, candidate))
        except ValueError as error:
          fitting, refused = 0, error
          break
        yield found
        if found['fits']:
          fitting = middle + 1
        else:
          too_many = middle
      sizes = sizes[:fitting]
  if found is None:
    raise refused


def changed(question: PlanRequest, candidate: Candidate) -> PlanRequest:
  """The question with the candidate's choices."""
  config = ml_collections.ConfigDict(question.config.to_dict())
  config.mesh = {axis: getattr(candidate, axis) for axis in ('data', 'fsdp', 'tensor')}
  if 'llama' in config:
    config.llama.sharding = candidate.sharding
  question = dataclasses.replace(
    question, config=config, rows_per_chip=candidate.rows_per_chip
  )
  if 'remat' in question.stage:
    question.stage.remat = candidate.remat
  return question


def best_first(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """By what is heard in a second as estimated; what does not fit comes last."""

  def rank(plan: dict[str, Any]) -> tuple[bool, float]:
    return plan['fits'], plan['estimate']['audio_hours_per_second']

  return sorted(plans, key=rank, reverse=True)
