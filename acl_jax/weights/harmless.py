# SPDX-License-Identifier: Apache-2.0
"""Tells which keys of a `config.json` of Hugging Face cannot change the model."""

from typing import Any

# The defaults of Transformers' PretrainedConfig, in version 4 or 5, without those that
# are null. Its subclasses write them all.
PRETRAINED_DEFAULTS: dict[str, Any] = {
  'add_cross_attention': False,
  'chunk_size_feed_forward': 0,
  'diversity_penalty': 0.0,
  'do_sample': False,
  'early_stopping': False,
  'encoder_no_repeat_ngram_size': 0,
  'is_decoder': False,
  'is_encoder_decoder': False,
  'length_penalty': 1.0,
  'max_length': 20,
  'min_length': 0,
  'no_repeat_ngram_size': 0,
  'num_beam_groups': 1,
  'num_beams': 1,
  'num_return_sequences': 1,
  'output_attentions': False,
  'output_hidden_states': False,
  'output_scores': False,
  'pruned_heads': {},
  'remove_invalid_values': False,
  'repetition_penalty': 1.0,
  'return_dict': True,
  'return_dict_in_generate': False,
  'temperature': 1.0,
  'tf_legacy_loss': False,
  'tie_encoder_decoder': False,
  'top_k': 50,
  'top_p': 1.0,
  'torchscript': False,
  'typical_p': 1.0,
  'use_bfloat16': False,
}
# What Transformers, TRL, PEFT, Axolotl and others note about a model or its training.
BOOKKEEPING = frozenset(
  {
    'architectures',
    'attn_implementation',
    'base_model_name_or_path',
    'dtype',
    'finetuning_task',
    'gradient_checkpointing',
    'id2label',
    'initializer_range',
    'label2id',
    'max_sequence_length',
    'model_max_length',
    'name_or_path',
    'neftune_noise_alpha',
    'num_labels',
    'problem_type',
    'task_specific_params',
    'tokenizer_class',
    'torch_dtype',
    'transformers.js_config',
    'transformers_version',
    'use_cache',
  }
)
# Private attributes of Transformers, and what the libraries name after themselves.
PREFIXES = ('_', 'unsloth_', 'trl_', 'axolotl_', 'peft_')
# Dropout is for training; the tokenizer says what a token is for.
SUFFIXES = ('_token_id', 'dropout', '_pdrop')


def is_harmless(key: str, value: Any) -> bool:
  """Return whether an attribute that we do not read cannot change the model.

  So it is if it is null, which is absent, at the default of Transformers'
  PretrainedConfig, or of a kind that no model reads.
  """
  default = PRETRAINED_DEFAULTS.get(key)
  return (
    value is None
    or key in BOOKKEEPING
    or key.startswith(PREFIXES)
    or key.endswith(SUFFIXES)
    or (type(value) is type(default) and value == default)
  )
