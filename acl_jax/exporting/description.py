# SPDX-License-Identifier: Apache-2.0
"""The JSON files of an exported model, from which Transformers builds it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from acl_jax.exporting.weights import describe_tower
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import Encoder
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.weights.exported import MODEL_TYPE
from acl_jax.weights.huggingface import describe_llama
from acl_jax.weights.llama import Source
from acl_jax.weights.projector import describe_projector

CODE = Path(__file__).parent / 'files'
NEW_TOKENS = 128  # where an answer is cut, if `generate` is not told
_NAME = 'audio_chat_llama'
_CLASSES = {
  'AutoConfig': f'configuration_{_NAME}.AudioChatLlamaConfig',
  'AutoModel': f'modeling_{_NAME}.AudioChatLlamaModel',
  'AutoModelForCausalLM': f'modeling_{_NAME}.AudioChatLlamaModel',
  'AutoProcessor': f'processing_{_NAME}.AudioChatLlamaProcessor',
}


def copy_code(folder: Path) -> None:
  """The modules that the folder brings."""
  for path in sorted(CODE.glob('*.py')):
    if path.name != '__init__.py':
      shutil.copyfile(path, folder / path.name)


def describe_model(
  encoder: Encoder, adapter: CTCAdapter | StrideAdapter, source: Source, dtype: np.dtype
) -> dict[str, Any]:
  """`config.json`, but for what the tokenizer and the files of the LLM say."""
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
    'audio_model_id': None,  # it is here; to Ultravox it may be elsewhere
    'num_projector_layers': 0,  # to Ultravox it may be a transformer
    **describe_projector(adapter),
    'torch_dtype': str(dtype),
  }


def describe_ends(tokenizer: Tokenizer) -> dict[str, Any]:
  """The tokens that a configuration names."""
  ends = {'eos_token_id': tokenizer.eos_id, 'pad_token_id': tokenizer.eos_id}
  return {'bos_token_id': tokenizer.bos_id, **ends}


def write_generation(folder: Path, tokenizer: Tokenizer) -> None:
  """`generation_config.json`: greedy, as `acl_jax.chat` is."""
  stop = {'eos_token_id': list(tokenizer.stop_ids)}
  how = {'do_sample': False, 'max_new_tokens': NEW_TOKENS}
  write_json(folder / 'generation_config.json', describe_ends(tokenizer) | stop | how)


def write_processor(folder: Path, encoder: Encoder, stack: int) -> None:
  """`processor_config.json`: from samples to what the encoder hears."""
  config = encoder.config
  described = {
    'processor_class': 'AudioChatLlamaProcessor',
    'auto_map': {'AutoProcessor': _CLASSES['AutoProcessor']},
    'features': config.features,
    'num_mel_bins': config.num_mel_bins,
    'max_frames': config.max_frames,
    'subsampling': config.subsampling,
    'stack_factor': stack,
    'audio_token': '<|audio|>',
  }
  write_json(folder / 'processor_config.json', described)


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Two spaces a level, as Transformers writes it."""
  path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n')
