# SPDX-License-Identifier: Apache-2.0
"""Weights of 8 bits: a quarter of float32's memory, and of what a decode step reads."""

from flax import nnx

from acl_jax.models.layers import QuantisedMatrix
from acl_jax.models.llama import Llama

# The axes that a matrix product sums over; every other index has its own scale.
SUMMED = {
  'q_proj': (-3,),
  'k_proj': (-3,),
  'v_proj': (-3,),
  'o_proj': (-3, -2),
  'gate_proj': (-2,),
  'up_proj': (-2,),
  'down_proj': (-2,),
  'embed_tokens': (-1,),  # when it scores; when it embeds, a row is as good
  'lm_head': (-2,),
}


def quantise(llama: Llama) -> Llama:
  """The same model, its matrices in 8 bits; the given one is left without them."""
  for module in (llama, llama.layers.self_attn, llama.layers.mlp):
    for name in SUMMED.keys() & vars(module).keys():
      param = getattr(module, name)
      delattr(module, name)  # one matrix at a time is there twice
      setattr(module, name, quantise_one(name, param))
  return llama


def quantise_one(name: str, param: nnx.Variable) -> nnx.Variable | QuantisedMatrix:
  """A matrix in 8 bits; any other parameter as it is."""
  return QuantisedMatrix(param, SUMMED[name]) if name in SUMMED else param
