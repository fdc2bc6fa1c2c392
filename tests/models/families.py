# SPDX-License-Identifier: Apache-2.0
"""The families of LLMs that the project supports: a tiny random model of each.

`FAMILIES` has one entry for each row of the table in docs/models.md, so a test over it
covers every family. Each is a config of Transformers with sizes that all differ; `edge`
positions are the first ones at which a window or a scaled rotation changes something.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
import transformers

SIZES = {
  'vocab_size': 50,
  'hidden_size': 24,
  'intermediate_size': 40,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 6,
  'max_position_embeddings': 64,
  'rms_norm_eps': 1e-5,
  'tie_word_embeddings': False,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'pad_token_id': None,
}
LLAMA3_ROPE = {
  'rope_type': 'llama3',
  'rope_theta': 500.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
YARN_ROPE = {
  'rope_type': 'yarn',
  'rope_theta': 500.0,
  'factor': 4.0,
  'original_max_position_embeddings': 16,
}


@dataclasses.dataclass(frozen=True)
class Family:
  """A family by Hugging Face's `model_type`, and what of `SIZES` is different.

  published: models that it stands for. length: of test sequences, beyond every edge.
  """

  model_type: str
  published: str
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)
  length: int = 13

  @property
  def config(self) -> Any:
    """The config of Transformers."""
    rope = {'rope_type': 'default', 'rope_theta': 500.0}
    fields = SIZES | {'rope_parameters': rope} | self.changes
    return transformers.AutoConfig.for_model(self.model_type, **fields)


FAMILIES = {
  'llama2': Family(
    'llama', 'Llama 2, TinyLlama', {'head_dim': 6, 'num_key_value_heads': 4}
  ),
  'llama3': Family('llama', 'Llama 3'),
  'llama3.1': Family(
    'llama', 'Llama 3.1, 3.3', {'rope_parameters': LLAMA3_ROPE}, length=40
  ),
  'llama3.2': Family(
    'llama',
    'Llama 3.2',
    {'rope_parameters': LLAMA3_ROPE, 'tie_word_embeddings': True},
    length=40,
  ),
  'smollm2': Family('llama', 'SmolLM2', {'tie_word_embeddings': True}),
  'smollm3': Family(
    'smollm3',
    'SmolLM3',
    {'tie_word_embeddings': True, 'no_rope_layers': [1, 0, 1]},
  ),
  'mistral': Family('mistral', 'Mistral 7B 0.2, 0.3', {'sliding_window': None}),
  'mistral-window': Family('mistral', 'Mistral 7B 0.1', {'sliding_window': 5}),
  'qwen2': Family('qwen2', 'Qwen2, Qwen2.5', {'rope_parameters': YARN_ROPE}, length=40),
  'qwen2-window': Family(
    'qwen2',
    'Qwen2 with use_sliding_window',
    {'use_sliding_window': True, 'sliding_window': 5, 'max_window_layers': 1},
  ),
  'qwen3': Family('qwen3', 'Qwen3 (dense)', {'head_dim': 8}),
}


@functools.cache
def build(name: str) -> Any:
  """Build the model of Transformers, with weights large enough to matter."""
  config = FAMILIES[name].config
  config._attn_implementation = 'eager'
  model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
  generator = torch.Generator().manual_seed(0)
  for parameter in model.parameters():
    parameter.data.normal_(0.1, 0.3, generator=generator)
  return model


def tokens(name: str, batch: int = 2) -> np.ndarray:
  """Return random tokens [b t] of the family's length."""
  shape = (batch, FAMILIES[name].length)
  return np.random.default_rng(2).integers(0, SIZES['vocab_size'], shape)


def reference_logits(name: str, tokens: np.ndarray) -> np.ndarray:
  """Return the logits of Transformers, [b t v]."""
  with torch.no_grad():
    return build(name)(torch.tensor(tokens)).logits.numpy()
