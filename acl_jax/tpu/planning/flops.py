# SPDX-License-Identifier: Apache-2.0
"""Count the floating-point operations of a step, by XLA's own count.

XLA counts the body of a loop once. Therefore steps with few layers are lowered for the
CPU with their loops over layers unrolled; the cost of a layer is the difference that
one more layer makes. Of the keys and values that a decode step reads, one block is
counted, because their number is unknown before the run. Works on shapes only: nothing
is allocated, compiled or run.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from acl_jax.config.experiment import PretrainConfig
from acl_jax.models import llama
from acl_jax.tpu.planning import shapes
from acl_jax.tpu.planning.steps import StepSpec

ROWS = 2  # of the batch that is counted
MIN_LAYERS = {'llama': 2, 'encoder': 1}  # counted with as many layers, and one more


@dataclasses.dataclass(frozen=True)
class Flops:
  """Floating-point operations of a step.

  Attributes:
    per_row: Operations for each row of the batch, all layers.
    per_llm_token_over_n: Operations of one LLM layer for each token of a prompt,
      divided by the layer's number of parameters; None without an LLM.
  """

  per_row: float
  per_llm_token_over_n: float | None


def count_flops(lowered: jax.stages.Lowered) -> float:
  """Return the operations of a lowered function before XLA optimises it."""
  analysis = lowered.cost_analysis()
  assert analysis, 'this backend does not count operations'
  return analysis['flops']


def count_layer_parameters(config: llama.LlamaConfig) -> int:
  """Return the number of parameters of one LLM layer, N."""
  layer = jax.eval_shape(lambda: llama.Block(config, rngs=nnx.Rngs(0)))
  return sum(leaf.size for leaf in jax.tree.leaves(layer))


def count_step_flops(config: Any, make_step) -> Flops:
  """Count the operations of a step; `make_step` is one of `steps.PROGRAMS`."""
  num_layers = _num_layers(config, make_step(config, None, ROWS).towers)
  fewest = {name: min(n, MIN_LAYERS[name]) for name, n in num_layers.items()}

  def count(**layers: int) -> tuple[float, StepSpec]:
    few_layers = with_layers(config, fewest | layers)
    step = make_step(few_layers, None, ROWS, unroll=True)
    return count_flops(step.lower()), step

  base, step = count()
  total, per_token = base, None
  for name, number in num_layers.items():
    if number > fewest[name]:
      one_more, _ = count(**{name: fewest[name] + 1})
      total += (one_more - base) * (number - fewest[name])
      if name == 'llama' and step.llm_tokens:
        n = count_layer_parameters(shapes.llama_shapes(config.llama).config)
        per_token = (one_more - base) / step.llm_tokens / n
  return Flops(total / ROWS, per_token)


def _num_layers(config: Any, towers: Sequence[str]) -> dict[str, int]:
  """Return the number of layers of each tower."""
  num_layers = {}
  if 'llama' in towers:
    num_layers['llama'] = shapes.llama_shapes(config.llama).config.num_hidden_layers
  if 'encoder' in towers:
    encoder = shapes.encoder_shapes(config.encoder).config
    num_layers['encoder'] = getattr(encoder, _layers_field(encoder))
  return num_layers


def _layers_field(encoder) -> str:
  """Return the field of an encoder's config that holds its number of layers."""
  return 'encoder_layers' if hasattr(encoder, 'encoder_layers') else 'num_hidden_layers'


def with_layers(config: Any, layers: dict[str, int]) -> Any:
  """Return a copy of the config with other numbers of layers, by tower."""
  if 'llama' in layers:
    llama_config = shapes.llama_shapes(config.llama).config
    sizes = dataclasses.replace(llama_config, num_hidden_layers=layers['llama'])
    config = dataclasses.replace(
      config, llama=dataclasses.replace(config.llama, sizes=sizes)
    )
  if 'encoder' in layers:
    encoder = shapes.encoder_shapes(config.encoder).config
    sizes = dataclasses.replace(encoder, **{_layers_field(encoder): layers['encoder']})
    config = dataclasses.replace(
      config, encoder=dataclasses.replace(config.encoder, sizes=sizes)
    )
    if isinstance(config, PretrainConfig) and config.ctc.letters:
      # Layer 1 exists always, and every layer costs the same.
      letters = dataclasses.replace(config.ctc.letters, layer=1)
      config = dataclasses.replace(
        config, ctc=dataclasses.replace(config.ctc, letters=letters)
      )
  return config
