# SPDX-License-Identifier: Apache-2.0
"""The families of LLMs, each a class of Transformers with defaults of its own."""

from typing import Any, NamedTuple


class Family(NamedTuple):
  """A family of models in Transformers.

  defaults: of its config class. constants: fields of ours that all its models share.
  written: keys that its config class has, at the only value that we write. may_have:
  fields of ours that its config can express beyond the sizes.
  """

  architecture: str
  defaults: dict[str, Any]
  constants: dict[str, Any] = {}
  written: dict[str, Any] = {}
  may_have: tuple[str, ...] = ()


_DEFAULTS = {'rms_norm_eps': 1e-6, 'rope_theta': 10_000.0, 'tie_word_embeddings': False}
_QWEN = {'max_position_embeddings': 32_768, 'num_key_value_heads': 32} | _DEFAULTS
_NO_BIAS = {'attention_bias': False, 'mlp_bias': False}
_WINDOWS = ('sliding_window', 'full_attention_layers')
FAMILIES = {
  'llama': Family(
    'LlamaForCausalLM',
    {'max_position_embeddings': 2_048} | _DEFAULTS,
    written=_NO_BIAS,
  ),
  'mistral': Family(
    'MistralForCausalLM',
    {'max_position_embeddings': 131_072, 'num_key_value_heads': 8} | _DEFAULTS,
    may_have=('sliding_window',),
  ),
  'qwen2': Family(
    'Qwen2ForCausalLM', _QWEN, constants={'attention_bias': True}, may_have=_WINDOWS
  ),
  'qwen3': Family(
    'Qwen3ForCausalLM',
    _QWEN | {'head_dim': 128},
    constants={'qk_norm': True},
    written={'attention_bias': False},
    may_have=_WINDOWS,
  ),
  'smollm3': Family(
    'SmolLM3ForCausalLM',
    {
      'max_position_embeddings': 32_768,
      'num_key_value_heads': 4,
      'rms_norm_eps': 1e-6,
      'rope_theta': 2e6,
      'tie_word_embeddings': True,
    },
    written=_NO_BIAS | {'pad_token_id': None},  # its default is for one vocabulary
    may_have=('no_rope_layers', *_WINDOWS),
  ),
}
