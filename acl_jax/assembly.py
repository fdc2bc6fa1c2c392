# SPDX-License-Identifier: Apache-2.0
"""From a config to the parts: tokenizer, template, and the model with its weights."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from acl_jax import assets
from acl_jax.models.adapters import Stride, StrideConfig
from acl_jax.models.ctc import CTC, CTCConfig
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.models.spelling import letters_of
from acl_jax.text.templates import Audio, Conversation, Turn, template
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.adapter import load_adapter
from acl_jax.weights.llama import load_llama
from acl_jax.weights.whisper import load_whisper
from data_pipeline.batches import Segment

ADAPTER_FILE = 'adapter.safetensors'
ENCODER_FOLDER = 'encoder'  # there is one where the encoder was trained too
SHIPPED = Path(__file__).parent / 'adapters'


@dataclasses.dataclass(frozen=True)
class Text:
  """The LLM's text side: what it reads and writes."""

  tokenizer: Tokenizer
  template: Callable[[Conversation, Tokenizer], list[Segment]]

  def prompt(self, content) -> list[Segment]:
    """The prompt for one user turn: a string, `Audio(0)`, or several of them."""
    return self.converse([Turn('user', content)])

  def converse(self, conversation: Conversation) -> list[Segment]:
    """The prompt for a conversation so far."""
    return self.template(conversation, self.tokenizer)

  def spoken(self) -> list[Segment]:
    """The prompt for a user turn that is one recording."""
    return self.prompt((Audio(0),))


def load_text(config: ml_collections.ConfigDict) -> Text:
  """The tokenizer and the template that a config names."""
  tokenizer = load_tokenizer(assets.resolve(config.llama.path))
  return Text(tokenizer, template(config.template))


def load_frozen_llama(config: ml_collections.ConfigDict):
  """The LLM that a config names."""
  path = assets.resolve(config.llama.path)
  return load_llama(path, jnp.dtype(config.llama.dtype))


def load_encoder(config: ml_collections.ConfigDict, checkpoint: str | None = None):
  """The audio encoder that was trained with an adapter, or else the config's."""
  if checkpoint:
    trained = find_adapter(config, checkpoint).parent / ENCODER_FOLDER
    if trained.is_dir():
      return load_whisper(trained)
  if config.encoder.kind != 'whisper':
    raise ValueError(f'config.encoder.kind is {config.encoder.kind!r}; known: whisper')
  return load_whisper(assets.resolve(config.encoder.path))


def new_adapter(
  config: ml_collections.ConfigDict,
  encoder_size: int,
  llm_size: int,
  vocabulary: Sequence[int],
  piece: Callable[[int], str],
) -> CTC | Stride:
  """An untrained adapter; `vocabulary` is what a CTC adapter may write.

  piece: how a token is spelt, `Tokenizer.piece`.
  """
  sizes = {k: v for k, v in config.adapter.to_dict().items() if k != 'kind'}
  sizes |= {'encoder_size': encoder_size, 'llm_size': llm_size}
  rngs = nnx.Rngs(config.seed)
  if config.adapter.kind == 'stride':
    return Stride(StrideConfig(**sizes), rngs=rngs)
  if config.adapter.kind != 'ctc':
    raise ValueError(
      f'config.adapter.kind is {config.adapter.kind!r}; known: ctc, stride'
    )
  sizes['vocabulary_size'] = len(vocabulary)
  adapter = CTC(CTCConfig(**sizes), rngs=rngs)
  adapter.vocabulary[...] = jnp.asarray(np.asarray(vocabulary, np.int32))
  adapter.spelling.letters[...] = jnp.asarray(letters_of([*map(piece, vocabulary)]))
  return adapter


def find_adapter(config: ml_collections.ConfigDict, checkpoint: str | None) -> Path:
  """The adapter file: given, in a given workdir, or the one shipped for this config."""
  if checkpoint is None:
    path = SHIPPED / f'{config.shipped_adapter}.safetensors'
  else:
    path = Path(checkpoint)
    path = path / ADAPTER_FILE if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no adapter {path}; train one or give --checkpoint'
    )
  return path


def load_model(
  config: ml_collections.ConfigDict, checkpoint: str | None = None
) -> SpeechLLM:
  """The whole model with a trained adapter."""
  adapter = load_adapter(find_adapter(config, checkpoint))
  encoder, llama = load_encoder(config, checkpoint), load_frozen_llama(config)
  have = (adapter.config.encoder_size, adapter.config.llm_size)
  want = (encoder.config.d_model, llama.config.hidden_size)
  if have != want:
    raise ValueError(
      f'the adapter joins widths {have[0]} and {have[1]}; the encoder and the LLM of'
      f' this config have {want[0]} and {want[1]}'
    )
  if isinstance(adapter, CTC):
    highest, limit = int(jnp.max(adapter.vocabulary[...])), llama.config.vocab_size
    if highest >= limit:
      raise ValueError(f'the adapter writes token {highest}; the LLM has {limit}')
  return SpeechLLM(encoder, adapter, llama)
