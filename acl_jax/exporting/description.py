# SPDX-License-Identifier: Apache-2.0
"""The JSON files of an exported folder, from which Transformers builds the model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from acl_jax.exporting.weights import describe_tower
from acl_jax.hearing.pieces import window_sizes
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.weights.exported import MODEL_TYPE
from acl_jax.weights.llama import Source
from acl_jax.weights.llama_config import describe_llama
from acl_jax.weights.projector import describe_projector
from data_pipeline.features import Frontend

CODE_FOLDER = Path(__file__).parent / 'files'
DEFAULT_MAX_NEW_TOKENS = 128  # of `generate`, unless the caller sets it
_NAME = 'audio_chat_llama'
_CLASSES = {
  'AutoConfig': f'configuration_{_NAME}.AudioChatLlamaConfig',
  'AutoModel': f'modeling_{_NAME}.AudioChatLlamaModel',
  'AutoModelForCausalLM': f'modeling_{_NAME}.AudioChatLlamaModel',
  'AutoProcessor': f'processing_{_NAME}.AudioChatLlamaProcessor',
}


def copy_code(folder: Path) -> None:
  """Copy the model code into an exported folder."""
  for path in sorted(CODE_FOLDER.glob('*.py')):
    if path.name != '__init__.py':
      shutil.copyfile(path, folder / path.name)


def describe_model(
  encoder: Encoder, adapter: Adapter, source: Source, dtype: np.dtype
) -> dict[str, Any]:
  """Return `config.json`, except what depends on the tokenizer and the LLM's files."""
  return {
    'architectures': ['AudioChatLlamaModel'],
    'model_type': MODEL_TYPE,
    'auto_map': _CLASSES,
    'custom_pipelines': {
      'audio-chat': {
        'impl': f'pipeline_{_NAME}.AudioChatLlamaPipeline',
        'pt': ['AutoModel'],
      }
    },
    'audio_config': describe_tower(encoder),
    'text_config': describe_llama(source.config, str(dtype)),
    # Engines take it from here for the LLM.
    'tie_word_embeddings': source.config.tie_word_embeddings,
    'audio_model_id': None,  # the weights are included; Ultravox may refer to them
    'num_projector_layers': 0,  # Ultravox may have a transformer here
    **describe_projector(adapter),
    'torch_dtype': str(dtype),
  }


def describe_special_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
  """Return the ids of special tokens, as configurations of Transformers have them."""
  return {
    'bos_token_id': tokenizer.bos_id,
    'eos_token_id': tokenizer.eos_id,
    'pad_token_id': tokenizer.eos_id,
  }


def write_generation_config(folder: Path, tokenizer: Tokenizer) -> None:
  """Write `generation_config.json`: greedy decoding, like `acl_jax.chat`."""
  settings = describe_special_tokens(tokenizer) | {
    'eos_token_id': list(tokenizer.stop_ids),
    'do_sample': False,
    'max_new_tokens': DEFAULT_MAX_NEW_TOKENS,
  }
  write_json(folder / 'generation_config.json', settings)


def write_processor_config(folder: Path, encoder: Encoder, adapter: Adapter) -> None:
  """Write `processor_config.json`: from waveforms to the encoder's features."""
  config = encoder.config
  settings = {
    'processor_class': 'AudioChatLlamaProcessor',
    'auto_map': {'AutoProcessor': _CLASSES['AutoProcessor']},
    **dataclasses.asdict(Frontend.of(config)),
    'window_frames': window_sizes(config, adapter).window,
    'subsampling': config.subsampling,
    'stack_factor': adapter.config.stack,
  }
  write_json(folder / 'processor_config.json', settings)


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Write JSON indented by two spaces, as Transformers does."""
  path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n')
