# SPDX-License-Identifier: Apache-2.0
"""How many floating-point operations a step takes, by XLA's own count.

XLA counts the body of a loop once. So steps with few layers are lowered, for the CPU,
their loops unrolled, and what one more layer adds is the difference. Of the keys and
values that decoding reads, one block is counted: nobody knows how many there will be.
Shapes only: nothing is allocated, compiled or run.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
from flax import nnx

from acl_jax.models import llama
from acl_jax.tpu.planning import shapes
from acl_jax.tpu.planning.steps import Step

ROWS = 2  # of the batch that is counted
FEWEST = {'llama': 2, 'encoder': 1}  # layers that are counted, and one more
SHORT = 8  # rounds of a loop over layers that is counted; others are over time


@dataclasses.dataclass(frozen=True)
class Flops:
  """of_row: of a step for each row of its batch, all layers.

  per_llm_token_over_n: of one LLM layer for each token that it reads, in units of its
  own parameters; None without an LLM.
  """

  of_row: float
  per_llm_token_over_n: float | None


@contextlib.contextmanager
def loops_unrolled() -> Iterator[None]:
  """Within it, `jax.lax.scan` over few makes no loop."""
  scan = jax.lax.scan

  def unrolled(f, init, xs=None, length=None, **how: Any):
    rounds = length if length is not None else len(jax.tree.leaves(xs)[0])
    how['unroll'] = rounds <= SHORT or 1
    return scan(f, init, xs, length, **how)

  jax.lax.scan = unrolled
  try:
    yield
  finally:
    jax.lax.scan = scan


def count(lower: Callable[[], jax.stages.Lowered]) -> float:
  """Operations of what `lower` lowers, before XLA optimises it."""
  with loops_unrolled():
    analysis = lower().cost_analysis()
  assert analysis, 'this backend does not count'
  return analysis['flops']


def parameters_of_layer(config: llama.LlamaConfig) -> int:
  """N of one layer."""
  layer = jax.eval_shape(lambda: llama.Block(config, rngs=nnx.Rngs(0)))
  return sum(leaf.size for leaf in jax.tree.leaves(layer))


def of_step(config: ml_collections.ConfigDict, step_of) -> Flops:
  """Operations of a step; step_of: `steps.train` or another."""
  layers = _layers(config, step_of(config, None, ROWS).towers)
  few = {name: min(layers[name], FEWEST[name]) for name in layers}

  def lowered(**changed: int) -> tuple[float, Step]:
    step = step_of(with_layers(config, few | changed), None, ROWS)
    return count(step.lower), step

  base, step = lowered()
  total, per_token = base, None
  for name, number in layers.items():
    if number > few[name]:
      more, _ = lowered(**{name: few[name] + 1})
      total += (more - base) * (number - few[name])
      if name == 'llama' and step.llm_tokens:
        n = parameters_of_layer(shapes.llama_of(config).config)
        per_token = (more - base) / step.llm_tokens / n
  return Flops(total / ROWS, per_token)


def _layers(config: ml_collections.ConfigDict, towers: Sequence[str]) -> dict[str, int]:
  """How many layers each tower has."""
  found = {}
  if 'llama' in towers:
    found['llama'] = shapes.llama_of(config).config.num_hidden_layers
  if 'encoder' in towers:
    sizes = shapes.encoder_of(config).config
    found['encoder'] = getattr(sizes, _name(sizes))
  return found


def _name(encoder) -> str:
  return 'encoder_layers' if hasattr(encoder, 'encoder_layers') else 'num_hidden_layers'


def with_layers(
  config: ml_collections.ConfigDict, layers: dict[str, int]
) -> ml_collections.ConfigDict:
  """The config with other numbers of layers."""
  changed = ml_collections.ConfigDict(config.to_dict())
  if 'llama' in layers:
    sizes = dataclasses.asdict(shapes.llama_of(config).config)
    changed.llama.sizes = sizes | {'num_hidden_layers': layers['llama']}
  if 'encoder' in layers:
    config_of = shapes.encoder_of(config).config
    sizes = dataclasses.asdict(config_of) | {_name(config_of): layers['encoder']}
    changed.encoder.sizes = sizes
    if 'letters' in changed.get('ctc', {}):
      changed.ctc.letters.layer = 1  # whichever it is: as much work, and always there
  return changed
