# SPDX-License-Identifier: Apache-2.0
"""Weights in int8: a quarter of float32's memory and of a decode step's reads."""

from flax import nnx

from acl_jax.models.llama import Llama
from acl_jax.models.matrices import QuantisedMatrix

# The axes that a matrix product contracts; every other index has its own scale.
REDUCED_AXES = {
  'q_proj': (-3,),
  'k_proj': (-3,),
  'v_proj': (-3,),
  'o_proj': (-3, -2),
  'gate_proj': (-2,),
  'up_proj': (-2,),
  'down_proj': (-2,),
  'embed_tokens': (-1,),  # of the tied LM head; a scale per row also fits a lookup
  'lm_head': (-2,),
}


def quantise(llama: Llama) -> Llama:
  """Quantise the matrices of a model to int8, in place, and return it."""
  for module in (llama, llama.layers.self_attn, llama.layers.mlp):
    for name in REDUCED_AXES.keys() & vars(module).keys():
      param = getattr(module, name)
      delattr(module, name)  # only one matrix at a time exists twice
      setattr(module, name, quantise_parameter(name, param))
  return llama


def quantise_parameter(
  name: str, param: nnx.Variable
) -> nnx.Variable | QuantisedMatrix:
  """Quantise a matrix to int8; return any other parameter unchanged."""
  return QuantisedMatrix(param, REDUCED_AXES[name]) if name in REDUCED_AXES else param
