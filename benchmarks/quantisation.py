# SPDX-License-Identifier: Apache-2.0
"""Measure what fewer bits of the weights cost the answers of SmolLM2-135M-Instruct.

  .venv/bin/python benchmarks/quantisation.py

The float32 model answers the transcripts of the shipped recordings greedily. Then each
format reads its answers: `perplexity` of them, and `greedy_agreement`, the share of
their tokens that it, too, would choose. Only the weights are rounded; the computation
stays in float32. The last line is JSON.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax import build
from acl_jax.config.experiment import parse_train
from acl_jax.evaluation import examples
from acl_jax.exporting.check import SHIPPED_MANIFEST
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.models.llama import Llama
from acl_jax.models.matrices import GroupedMatrix, QuantisedMatrix
from acl_jax.models.quantisation import ALWAYS_INT8, REDUCED_AXES
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.text.layout import layout_prompt
from benchmarks.machine import print_result
from configs import smol

_PROMPTS = flags.DEFINE_integer('prompts', 50, 'number of prompts', lower_bound=1)
_TOKENS = flags.DEFINE_integer('tokens', 64, 'longest answer', lower_bound=1)

SLOTS, MAX_PROMPT = 16, 96
Round = Callable[[str, nnx.Variable], Float[Array, '...']]


class Answers(NamedTuple):
  """Prompts with their answers, and which tokens are answers."""

  tokens: Int[Array, 'b t']
  mask: Bool[Array, 'b t']


def to_int8(name: str, param: nnx.Variable) -> Float[Array, '...']:
  """Round to int8, a scale for each output."""
  return QuantisedMatrix(param, REDUCED_AXES[name])[...]


def to_float8(name: str, param: nnx.Variable) -> Float[Array, '...']:
  """Round to float8 (e4m3), a scale for each output."""
  dtype, axes = jnp.float8_e4m3fn, REDUCED_AXES[name]
  largest = jnp.max(jnp.abs(param[...]), axes, keepdims=True)
  scale = jnp.where(largest > 0, largest / float(jnp.finfo(dtype).max), 1)
  scale = jnp.broadcast_to(scale, param.shape)
  return (param[...] / scale).astype(dtype).astype(jnp.float32) * scale


def to_int4(group_size: int) -> Round:
  """Return a rounding to int4 in groups; the embeddings are in int8."""

  def round(name: str, param: nnx.Variable) -> Float[Array, '...']:
    if name in ALWAYS_INT8:
      return to_int8(name, param)
    return GroupedMatrix(param, REDUCED_AXES[name][-1], group_size)[...]

  return round


# Bits of a weight of the layers, its share of a scale in bfloat16 included.
FORMATS: dict[str, tuple[Round, float]] = {
  'int8': (to_int8, 8.0),
  'float8': (to_float8, 8.0),
  'int4-g32': (to_int4(32), 4.5),
  'int4-g128': (to_int4(128), 4.125),
}


def answer(llama: Llama, prompts: Sequence[list[int]], max_tokens: int) -> Answers:
  """Answer greedily; prompts that are too long are left out."""
  engine = Engine(llama, EngineConfig(SLOTS, MAX_PROMPT, max_tokens))
  requests = [
    Request(str(i), tuple(prompt))
    for i, prompt in enumerate(prompts)
    if len(prompt) <= MAX_PROMPT
  ]
  length = MAX_PROMPT + max_tokens
  tokens = np.zeros((len(requests), length), np.int32)
  mask = np.zeros(tokens.shape, bool)
  for row, response in enumerate(engine.run(requests)):
    prompt = response.request.prompt
    end = len(prompt) + len(response.tokens)
    tokens[row, :end] = [*prompt, *response.tokens]
    mask[row, len(prompt) : end] = True
  return Answers(jnp.asarray(tokens), jnp.asarray(mask))


@jax.jit
def score(llama: Llama, answers: Answers) -> tuple[Array, Array]:
  """Return the mean NLL of the answers, and the share of tokens that are likeliest."""

  def row(answers):
    tokens = answers.tokens[None]
    hidden, _ = llama(llama.embed(tokens), *causal_segment_mask(jnp.ones_like(tokens)))
    log_probs = jax.nn.log_softmax(llama.logits(hidden)[0, :-1])
    targets, mask = answers.tokens[1:], answers.mask[1:]
    nll = -jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
    same = jnp.argmax(log_probs, axis=-1) == targets
    return jnp.sum(jnp.where(mask, nll, 0)), jnp.sum(mask & same), jnp.sum(mask)

  nll, same, count = (jnp.sum(x) for x in jax.lax.map(row, answers))
  return nll / count, same / count


def rounded(llama: Llama, round: Round) -> Llama:
  """Return a copy with rounded matrices, in float32."""
  copy = jax.tree.map(lambda x: x, llama)
  for module in (copy, copy.layers.self_attn, copy.layers.mlp):
    for name in REDUCED_AXES.keys() & vars(module).keys():
      param = getattr(module, name)
      setattr(module, name, param.replace(round(name, param)))
  return copy


def main(argv: list[str]) -> None:
  """Print perplexity and agreement of each format."""
  del argv
  config = parse_train(smol.get_config())
  text = build.load_text_frontend(config.llama, config.template)
  llama = build.load_frozen_llama(config.llama)
  utterances, _ = examples.read_manifest(SHIPPED_MANIFEST, _PROMPTS.value)
  prompts = [layout_prompt(text.prompt(u.text), []).tokens for u in utterances]
  answers = answer(llama, [list(map(int, p)) for p in prompts], _TOKENS.value)
  result: dict[str, Any] = {'prompts': len(answers.tokens)}
  result['answer_tokens'] = int(answers.mask.sum())
  for name, (round, bits) in {'float32': (None, 32.0), **FORMATS}.items():
    nll, same = score(rounded(llama, round) if round else llama, answers)
    result[name] = {
      'perplexity': float(f'{np.exp(nll):.5g}'),
      'greedy_agreement': float(f'{same:.4g}'),
      'bits_per_weight': bits,
    }
    print(name, result[name], flush=True)
  print_result(result)


if __name__ == '__main__':
  app.run(main)
