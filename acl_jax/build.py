# SPDX-License-Identifier: Apache-2.0
"""Load or build the parts of a model: text frontend, encoder, adapter and LLM."""

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from acl_jax import assets
from acl_jax.build_adapter import new_attention_adapter
from acl_jax.checkpoints import ADAPTER_FILE as ADAPTER_FILE
from acl_jax.checkpoints import ENCODER_FOLDER, LLAMA_FOLDER, Checkpoint
from acl_jax.checkpoints import find_checkpoint as find_checkpoint
from acl_jax.config.experiment import TrainConfig
from acl_jax.config.sections import (
  AttentionConfig,
  EncoderConfig,
  LLMConfig,
  WhisperEncoderConfig,
)
from acl_jax.models.attention_adapter import AttentionAdapter
from acl_jax.models.llama import Llama, LlamaConfig
from acl_jax.models.lora import merge_lora
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.sharding.rules import sharding_rules
from acl_jax.text import ctc_vocabulary, frontend
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights import safetensors
from acl_jax.weights.adapter import load_adapter
from acl_jax.weights.exported import ULTRAVOX, read_exported_config
from acl_jax.weights.fingerprint import describe
from acl_jax.weights.llama import llama_names, load_llama, open_llama, sha256_of_files
from acl_jax.weights.parakeet import conformer_names, load_conformer, save_conformer
from acl_jax.weights.peft import load_lora
from acl_jax.weights.projector import load_projector
from acl_jax.weights.table import Names
from acl_jax.weights.whisper import load_whisper, save_whisper, whisper_names


class EncoderFormat(NamedTuple):
  """Functions that read an encoder from a folder and write it to one.

  names: returns the names in Transformers of an encoder without its CTC head.
  """

  load: Callable[[Path], Any]
  save: Callable[[Any, Path], None]
  names: Callable[[Any], Names]


ENCODERS = {
  'conformer': EncoderFormat(load_conformer, save_conformer, conformer_names),
  'whisper': EncoderFormat(load_whisper, save_whisper, whisper_names),
}


def load_text_frontend(llm: LLMConfig, template: str) -> TextFrontend:
  """Load the LLM's tokenizer and its chat template, `config.template`.

  The tokenizer refuses texts with tokens for which the LLM has no embedding.
  """
  path = assets.resolve(llm.path)
  text = frontend.load_text_frontend(path, template, llm.today)
  rows = open_llama(path).config.vocab_size
  tokenizer = dataclasses.replace(text.tokenizer, num_embeddings=rows)
  ends = [id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None]
  tokenizer.check_embedded(ends, f'{path}: the beginning or end of a sequence')
  return dataclasses.replace(text, tokenizer=tokenizer)


def load_frozen_llama(llm: LLMConfig) -> Llama:
  """Load the LLM, sharded over the current mesh by the rules of the config."""
  path = assets.resolve(llm.path)
  llama = load_llama(path, jnp.dtype(llm.dtype), sharding_rules(llm.sharding))
  _check_sizes('llama', llm.path, llm.sizes, llama.config)
  return llama


def find_encoder(config: EncoderConfig, checkpoint: Checkpoint | None) -> Path:
  """Return the folder of the encoder trained with an adapter, or that of the config."""
  if checkpoint is not None and checkpoint.encoder is not None:
    return checkpoint.encoder
  return Path(assets.resolve(config.path))


def load_encoder(
  config: EncoderConfig, checkpoint: Checkpoint | None = None
) -> Encoder:
  """Load the encoder that was trained with an adapter, or that of the config.

  Low-rank updates trained with the adapter are merged into that of the config.
  """
  folder = find_encoder(config, checkpoint)
  if checkpoint and (folder / safetensors.FILE).is_file():
    safetensors.verify_checksum(folder / safetensors.FILE)
  encoder = ENCODERS[config.kind].load(folder)
  _check_sizes('encoder', config.path, config.sizes, encoder.config)
  if isinstance(config, WhisperEncoderConfig):
    encoder.config = config.configure(encoder.config)
  if checkpoint and (updates := checkpoint.lora_folder(ENCODER_FOLDER)):
    load_encoder_lora(encoder, updates)
    merge_lora(encoder)
  return encoder


def load_trained_encoder(config: EncoderConfig, checkpoint: Checkpoint) -> Encoder:
  """Load the encoder of a checkpoint, which hears the silence it was trained with."""
  encoder: Any = load_encoder(config, checkpoint)
  if isinstance(config, WhisperEncoderConfig):
    silence = checkpoint.trailing_silence
    if silence is not None:
      encoder.config = dataclasses.replace(encoder.config, trailing_silence=silence)
  return encoder


def load_encoder_lora(encoder: Encoder, folder: Path) -> None:
  """Wrap the matrices of an encoder that have low-rank updates in a folder."""
  names = ENCODERS[encoder.kind].names(encoder.tower)
  load_lora(encoder.tower, names, folder, describe(encoder)['sha256'])


def save_encoder(encoder: Encoder, folder: Path, origin: Path | None = None) -> None:
  """Write an encoder for `load_encoder`.

  origin: the folder it was loaded from; a vocabulary of its CTC head is copied from it.
  """
  ENCODERS[encoder.kind].save(encoder, folder)
  if encoder.recognises and origin not in (None, folder):
    for name in ctc_vocabulary.FILES:
      if (origin / name).is_file():
        shutil.copyfile(origin / name, folder / name)


def load_transcript_decoder(
  config: EncoderConfig,
  model: SpeechLLM,
  text: TextFrontend,
  checkpoint: Checkpoint | None,
) -> Callable[[list[int]], str] | None:
  """Return a function that decodes ids of `SpeechLLM.greedy`.

  None if neither adapter nor encoder recognises.
  """
  if model.adapter.recognises:
    return text.tokenizer.decode
  if model.encoder.recognises:
    return Vocabulary(find_encoder(config, checkpoint)).decode
  return None


def load_trained_adapter(checkpoint: Checkpoint, config: TrainConfig) -> Adapter:
  """Load the adapter of a checkpoint.

  ValueError if it was trained or exported for another LLM than that of the config.
  """
  if not checkpoint.exported:
    return load_adapter(checkpoint.adapter, functools.partial(_load_base, config))
  llm = config.llama
  folder, path = checkpoint.adapter.parent, assets.resolve(llm.path)
  if not path.is_dir() or path.resolve() != folder.resolve():
    described = read_exported_config(folder)
    expected = described.get('text_model_sha256')
    actual = sha256_of_files(open_llama(path))
    if expected is None and described['model_type'] == ULTRAVOX:
      expected = actual  # a published one names its LLM only
    if expected != actual:
      raise ValueError(
        f'{path}: not the LLM that {folder} was trained with: sha256 is {actual}, not'
        f' {expected}'
      )
  return load_projector(folder)


def _load_base(config: TrainConfig, path: str, sizes: Any) -> Adapter:
  """Return the adapter whose parameters a file of low-rank updates leaves out.

  path: of a Whisper, as the file names it; a stranger's file may only name an asset.
  """
  if not path.startswith(assets.PREFIX) and path != getattr(config.adapter, 'path', ''):
    raise ValueError(
      f'the adapter holds low-rank updates of {path!r}; set config.adapter.path to it'
    )
  section = AttentionConfig('attention', path, sizes.stack, None)
  tokenizer = load_tokenizer(assets.resolve(config.llama.path))
  return new_attention_adapter(
    section, config.seed, sizes.encoder_size, sizes.llm_size, tokenizer
  )


def check_adapter_sizes(adapter: Adapter, encoder_size: int, llm: LlamaConfig) -> None:
  """Raise ValueError unless the adapter fits the encoder and the LLM."""
  actual = (adapter.config.encoder_size, adapter.config.llm_size)
  if actual != (encoder_size, llm.hidden_size):
    raise ValueError(
      f'the adapter joins widths {actual[0]} and {actual[1]}; the encoder and the LLM'
      f' of this config have {encoder_size} and {llm.hidden_size}'
    )
  for id in adapter.token_ids():
    if not 0 <= id < llm.vocab_size:
      raise ValueError(
        f'the adapter recognises token {id}; the LLM has {llm.vocab_size}, from 0 on'
      )


def set_beams(adapter: Adapter, beams: int) -> None:
  """Let an attention adapter write by a search of so many beams."""
  if isinstance(adapter, AttentionAdapter):
    adapter.config = dataclasses.replace(adapter.config, beams=beams)


def load_model(config: TrainConfig, checkpoint: Checkpoint) -> SpeechLLM:
  """Load the whole model with a trained adapter."""
  adapter = load_trained_adapter(checkpoint, config)
  encoder = load_trained_encoder(config.encoder, checkpoint)
  llama = load_frozen_llama(config.llama)
  check_adapter_sizes(adapter, encoder.config.output_size, llama.config)
  set_beams(adapter, getattr(config.adapter, 'beams', 1))
  if updates := checkpoint.lora_folder(LLAMA_FOLDER):
    load_lora(llama, llama_names(llama), updates, describe(llama)['sha256'])
    merge_lora(llama)
  return SpeechLLM(encoder, adapter, llama)


def _check_sizes(name: str, path: str, expected: Any, actual: Any) -> None:
  """Raise ValueError if the sizes in the files differ from those in the config."""
  if expected is None:
    return
  for key, value in dataclasses.asdict(expected).items():
    if (found := getattr(actual, key)) != value:
      raise ValueError(f'config.{name}.sizes.{key} is {value}; in {path} it is {found}')
