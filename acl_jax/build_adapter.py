# SPDX-License-Identifier: Apache-2.0
"""Build adapters that have not been trained, from the config."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from acl_jax import assets
from acl_jax.config.sections import AdapterConfig, AttentionConfig
from acl_jax.models.adapters import StrideAdapterConfig
from acl_jax.models.attention_adapter import AttentionAdapter, AttentionAdapterConfig
from acl_jax.models.ctc import CTCAdapterConfig
from acl_jax.models.protocols import Adapter
from acl_jax.models.spelling import token_letters
from acl_jax.text.tokenizer import TextEncoder, Tokenizer, checksum
from acl_jax.text.whisper_pieces import CommonTokens, WhisperPieces
from acl_jax.weights.adapter import KINDS as ADAPTERS
from acl_jax.weights.whisper_decoder import Spelling, read_decoder_sizes, rehead_decoder


def new_adapter(
  config: AdapterConfig,
  seed: int,
  encoder_size: int,
  llm_size: int,
  vocabulary: Sequence[int],
  piece: Callable[[int], str],
) -> Adapter:
  """Return an untrained adapter.

  vocabulary: tokens that a CTC adapter can recognise. piece: returns a token's text.
  """
  make, _ = ADAPTERS[config.kind]
  sizes = adapter_sizes(config, encoder_size, llm_size, len(vocabulary))
  adapter = make(sizes, rngs=nnx.Rngs(seed))
  if adapter.recognises:
    letters = token_letters([*map(piece, vocabulary)])
    adapter.vocabulary[...] = jnp.asarray(np.asarray(vocabulary, np.int32))
    adapter.spelling.letters[...] = jnp.asarray(letters)
  return adapter


def new_attention_adapter(
  config: AttentionConfig,
  seed: int,
  encoder_size: int,
  llm_size: int,
  tokenizer: Tokenizer,
) -> AttentionAdapter:
  """Return an attention adapter as Whisper's decoder, or untrained.

  Whisper's writes the tokens that the LLM has in common with it; an untrained one all
  that are whole characters, but no control token.
  """
  if config.sizes is None:
    folder = assets.resolve(config.path)
    pieces = WhisperPieces(folder)
    common = CommonTokens(pieces, text_tokens(tokenizer))
    spelling = Spelling(pieces.start_ids, pieces.end_id, [*common.piece_ids.values()])
    return rehead_decoder(
      folder, config.stack, encoder_size, llm_size, [*common.piece_ids], spelling
    )
  vocabulary = [*text_tokens(tokenizer)]
  sizes = adapter_sizes(config, encoder_size, llm_size, len(vocabulary))
  assert isinstance(sizes, AttentionAdapterConfig)
  adapter = AttentionAdapter(sizes, rngs=nnx.Rngs(seed))
  adapter.vocabulary[...] = jnp.asarray(np.asarray(vocabulary, np.int32))
  return adapter


def transcript_encoder(config: AdapterConfig, tokenizer: Tokenizer) -> TextEncoder:
  """Return a function from a transcript to the tokens that an adapter writes."""
  encoder = tokenizer.text_encoder()
  if isinstance(config, AttentionConfig) and config.sizes is None:
    folder = assets.resolve(config.path)
    common = CommonTokens(WhisperPieces(folder), text_tokens(tokenizer))
    pieces = (folder / 'tokenizer.json').read_bytes()
    return TextEncoder(common.encode, checksum(encoder.fingerprint.encode(), pieces))
  return encoder


def text_tokens(tokenizer: Tokenizer) -> dict[int, str]:
  """Return the tokens that are whole characters and have an embedding, with texts."""
  control = set(tokenizer.control_tokens.values())
  count = tokenizer.vocab_size
  if tokenizer.num_embeddings is not None:
    count = min(count, tokenizer.num_embeddings)
  return {
    id: text
    for id, text in enumerate(tokenizer.token_texts(range(count)))
    if text and '\N{REPLACEMENT CHARACTER}' not in text and id not in control
  }


def adapter_sizes(
  config: AdapterConfig, encoder_size: int, llm_size: int, vocabulary_size: int
) -> AttentionAdapterConfig | CTCAdapterConfig | StrideAdapterConfig:
  """Return the config of the adapter module."""
  if isinstance(config, AttentionConfig):
    sizes, start_length = config.sizes, 1
    if sizes is None:
      folder = assets.resolve(config.path)
      sizes = read_decoder_sizes(folder)
      start_length = len(WhisperPieces(folder).start_ids)
    return AttentionAdapterConfig(
      **dataclasses.asdict(sizes),
      stack=config.stack,
      encoder_size=encoder_size,
      start_length=start_length,
      llm_size=llm_size,
      vocabulary_size=vocabulary_size,
    )
  sizes = dataclasses.asdict(config)
  del sizes['lora']
  sizes |= {'encoder_size': encoder_size, 'llm_size': llm_size}
  if config.kind == 'ctc':
    sizes['vocabulary_size'] = vocabulary_size
  _, configure = ADAPTERS[sizes.pop('kind')]
  return configure(**sizes)
