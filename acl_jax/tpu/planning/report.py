# SPDX-License-Identifier: Apache-2.0
"""A step compiled for a slice of TPUs that nobody has: does it fit, what travels, how
long should it take.
"""

import dataclasses
import hashlib
import importlib.metadata
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from acl_jax.runtime import compilation_cache
from acl_jax.sharding.mesh import make_mesh
from acl_jax.tpu import xla_flags
from acl_jax.tpu.planning import flops, hlo, roofline, shapes, steps
from acl_jax.tpu.planning.steps import Step
from acl_jax.tpu.slices import Slice
from acl_jax.tpu.topologies import chip_of, topology_devices

VERSIONS = ('jax', 'jaxlib', 'libtpu')
# Two messages of libtpu's: of all there is, or of all but the arguments.
_USED = re.compile(r'(Used|HLO temporaries) \(?([\d.]+)([KMGT])')
_UNITS = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a step; bytes are of one device.

  collectives: None where the program cannot be read, or there is none as it is too big;
  then peak is what it takes at least.
  """

  seconds: float
  peak: int
  collectives: list[hlo.Collective] | None


def compile_step(step: Step, slice: Slice) -> Compiled:
  """Lowers and compiles; a step that is too large is told of, not raised."""
  start = time.monotonic()
  lowered = step.lower()
  try:
    options = xla_flags.as_options(slice.generation.name)
    with compilation_cache.disabled():
      compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if (used := _USED.search(str(error))) is None:
      raise
    peak = int(float(used[2]) * _UNITS[used[3]])
    peak += 0 if used[1] == 'Used' else bytes_of(step.arguments)
    return Compiled(time.monotonic() - start, peak, None)
  seconds = time.monotonic() - start
  try:
    found = hlo.collectives(compiled.as_text() or '')
  except jax.errors.JaxRuntimeError:  # libtpu may be newer than this JAX
    found = None
  memory = compiled.memory_analysis()
  assert memory, 'libtpu does not say what it needs'
  return Compiled(seconds, memory.peak_memory_in_bytes, found)


def bytes_of(tree) -> int:
  """Bytes of arrays on one device."""

  def of(x) -> int:
    shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
    return math.prod(shape) * _item(x.dtype)

  return sum(map(of, jax.tree.leaves(tree)))


def _item(dtype) -> int:
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return 8
  return dtype.itemsize


@dataclasses.dataclass(frozen=True)
class PlanRequest:
  """What is planned: a program's step for a slice, with `rows_per_chip` rows or, if 0,
  those of the config. efficiency, price: see `roofline`.
  """

  config: ml_collections.ConfigDict
  slice: Slice
  program: str = 'train'
  rows_per_chip: int = 0
  efficiency: float = roofline.EFFICIENCY
  price: float | None = None

  @property
  def stage(self) -> ml_collections.ConfigDict:
    """The part of the config that says how the step is taken."""
    stages = {'train': 'response', 'pretrain': 'ctc', 'decode_targets': 'targets'}
    return self.config[stages[self.program]]

  @property
  def fingerprint(self) -> str:
    """Of all that the answer depends on."""
    config = self.config.to_json_best_effort(sort_keys=True)
    rest = self.slice, self.program, self.rows_per_chip, self.efficiency, self.price
    return hashlib.sha256(f'{config} {rest}'.encode()).hexdigest()[:16]


def make_plan(question: PlanRequest, counted: flops.Flops) -> dict[str, Any]:
  """The plan; its keys are those of the table in the README."""
  config, slice = question.config, question.slice
  chip, chips = chip_of(slice), slice.chips
  mesh = make_mesh(config.mesh.to_dict(), topology_devices(slice))
  step = steps.PROGRAMS[question.program](config, mesh, question.rows_per_chip * chips)
  parts = {name: bytes_of(tree) for name, tree in step.arguments.items()}
  needed = sum(parts.values())
  compiled = Compiled(0.0, needed, None)  # if nothing but the arguments has room
  if needed * chip.devices <= chip.hbm:
    compiled = compile_step(step, slice)
  peak, capacity = compiled.peak * chip.devices, chip.hbm
  found = compiled.collectives
  received = None if found is None else received_by_kind(found, mesh.size)
  parts['temporaries'] = max(0, compiled.peak - needed)
  work = {
    'flops': counted.of_row * step.rows / chips,
    'hbm_bytes': _hbm_bytes(step, parts, mesh, chip.devices),
    'ici_bytes': sum((received or {}).values()) * chip.devices,
    'llm_tokens': step.llm_tokens,
    'audio_seconds': step.audio_seconds,
  }
  return {
    'topology': str(slice),
    'chips': chips,
    'program': question.program,
    'mesh': dict(mesh.shape),
    'llm': _describe(config.llama) if 'llm' in parts else None,
    'remat': question.stage.get('remat'),
    'rows_per_chip': step.rows / chips,
    'llm_tokens_per_chip': step.llm_tokens / chips,
    'parameters': parameters(step),
    'compile_seconds': compiled.seconds,
    'hbm_bytes_per_chip': peak,
    'hbm_capacity_bytes': capacity,
    'fits': peak <= capacity,
    'advice': None if peak <= capacity else advice(question, parts),
    'hbm_bytes_of': {name: size * chip.devices for name, size in parts.items()},
    'collectives': None if found is None else hlo.counted(found),
    'collective_bytes': received,
    'flops_per_llm_token_over_n': counted.per_llm_token_over_n,
    'estimate': roofline.estimate(
      chip, chips, work, question.efficiency, question.price
    ),
    'assumed': shapes.ASSUMED,
    'question': question.fingerprint,
    'versions': {name: importlib.metadata.version(name) for name in VERSIONS},
  }


def _describe(llm: ml_collections.ConfigDict) -> dict[str, str]:
  return {'dtype': llm.dtype, 'sharding': llm.sharding}


def received_by_kind(found: list[hlo.Collective], devices: int) -> dict[str, int]:
  """Bytes that a device receives in a step through each kind of collective."""
  received = dict.fromkeys(hlo.counted(found), 0)
  for each in found:
    received[each.kind] += each.received(devices)
  return received


def parameters(step: Step) -> int:
  """Of the whole model."""
  models = [step.arguments.get(name) for name in ('llm', 'trainable')]
  return sum(leaf.size for leaf in jax.tree.leaves(models))


def _hbm_bytes(step: Step, parts: dict[str, int], mesh: Mesh, devices: int) -> float:
  """What a chip reads and writes in a step, of the LLM's weights all it needs."""
  llm = jax.tree.leaves(step.arguments.get('llm'))
  weights = sum(x.size * _item(x.dtype) for x in llm) / mesh.shape['tensor']
  sizes = parts | {'llm': weights}
  return sum(times * sizes[name] for name, times in step.passes.items()) * devices


def advice(question: PlanRequest, parts: dict[str, int]) -> str:
  """What to change of a config that is over capacity."""
  config = question.config
  if parts.get('llm', 0) > sum(parts.values()) / 2:
    if config.llama.sharding != 'fsdp':
      return "config.llama.sharding='fsdp' with config.mesh.fsdp=-1, or dtype='int8'"
    return 'a larger slice, or config.mesh.tensor above 1'
  if question.stage.get('remat', 'full') != 'full':
    return "remat='full', fewer --rows_per_chip, or a larger slice"
  return 'fewer --rows_per_chip, or a larger slice'
