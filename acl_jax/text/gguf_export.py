# SPDX-License-Identifier: Apache-2.0
"""A tokenizer as the fields `tokenizer.ggml.*` of a GGUF file."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tokenizers

from acl_jax.text.byte_level import SPLITTERS, make_pre_tokenizer
from acl_jax.text.gguf import (
  BYTE,
  CONTROL,
  LOOKS_LIKE_BYTE,
  NORMAL,
  UNKNOWN,
  UNUSED,
  USER_DEFINED,
)
from acl_jax.text.model_proto import ModelProto
from acl_jax.text.tokenizer import SentencePieceBackend, Tokenizer

PREFIX = 'tokenizer.ggml.'
# Families split each of these differently.
PROBE = (
  "I've 1234567 WORDS, it'S DON'T e\u0301 éÉ\n \n\n\t  x  y--==!!!"
  ' ?a/b\r\n 漢字 🙂 \u00bd'
)
UNKNOWN_TOKEN = '<unk>'  # Llama-2's, also where a file calls it a control token
MISSING_SCORE = -10_000.0  # below that of any piece


class _Vocabulary(NamedTuple):
  """Token and type by id, and what belongs to the kind of tokenizer."""

  tokens: dict[int, tuple[str, int]]
  fields: dict[str, Any]
  scores: dict[int, float] | None = None


def describe_tokenizer(tokenizer: Tokenizer, num_embeddings: int) -> dict[str, Any]:
  """Return the fields of a tokenizer, with a token for every embedding of the LLM.

  ValueError if llama.cpp does not split text as the tokenizer does.
  """
  if tokenizer.vocab_size > num_embeddings:
    raise ValueError(
      f'the tokenizer has {tokenizer.vocab_size} tokens, the LLM embeddings of'
      f' {num_embeddings}; llama.cpp needs an embedding for each'
    )
  backend = tokenizer.backends.text
  if isinstance(backend, SentencePieceBackend):
    vocabulary = _sentencepiece(backend)
  else:
    spec = json.loads(backend.tokenizer.to_str())
    has_bytes = spec['model'].get('byte_fallback')
    name = None if has_bytes else find_name(backend.tokenizer)
    vocabulary = _byte_level(spec, name) if name else _merged_pieces(spec)
  by_id = dict(vocabulary.tokens)
  by_id |= {id: (name, CONTROL) for name, id in tokenizer.control_tokens.items()}
  if (unknown := vocabulary.fields.get('unknown_token_id')) is not None:
    by_id[unknown] = (by_id[unknown][0], UNKNOWN)
  rows = [by_id.get(i, (f'[PAD{i}]', UNUSED)) for i in range(num_embeddings)]
  fields = vocabulary.fields | {
    'tokens': [token for token, _ in rows],
    'token_type': [kind for _, kind in rows],
    **_special_ids(tokenizer),
  }
  if (scores := vocabulary.scores) is not None:
    missing = MISSING_SCORE
    fields['scores'] = [scores.get(i, missing) for i in range(num_embeddings)]
    fields['add_space_prefix'] = tokenizer.adds_prefix_space
  return {PREFIX + name: value for name, value in fields.items()}


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
  """Return the ids that begin and end; the chat template adds those of a prompt."""
  ends = [id for id in tokenizer.stop_ids if id != tokenizer.eos_id]
  if len(ends) > 2:
    raise ValueError(
      f'the tokenizer has the stop ids {tokenizer.stop_ids}; a GGUF file has three'
    )
  fields: dict[str, Any] = {'add_bos_token': False, 'eos_token_id': tokenizer.eos_id}
  if tokenizer.bos_id is not None:
    fields['bos_token_id'] = tokenizer.bos_id
  names = ('eot_token_id', 'eom_token_id')
  return fields | dict(zip(names, ends, strict=False))


def _sentencepiece(backend: SentencePieceBackend) -> _Vocabulary:
  model = ModelProto.FromString(backend.processor.serialized_model_proto())
  # An absent type is 0 here.
  tokens = {i: (p.piece, p.type or NORMAL) for i, p in enumerate(model.pieces)}
  scores = {i: piece.score for i, piece in enumerate(model.pieces)}
  unknown = backend.processor.unk_id()
  return _Vocabulary(tokens, {'model': 'llama', 'unknown_token_id': unknown}, scores)


def _merged_pieces(spec: Mapping[str, Any]) -> _Vocabulary:
  """Describe sentencepiece's pieces in a tokenizer.json: early merges score highest."""
  vocab, added = spec['model']['vocab'], _added(spec)
  unknown = spec['model'].get('unk_token') or UNKNOWN_TOKEN
  tokens = {}
  for token, id in vocab.items():
    tokens[id] = (token, BYTE if LOOKS_LIKE_BYTE.fullmatch(token) else NORMAL)
  scores: dict[int, float] = {}
  for rank, (left, right) in enumerate(_merges(spec)):
    scores.setdefault(vocab[left + right], -float(rank))
  fields: dict[str, Any] = {'model': 'llama'}
  if unknown in vocab:
    fields['unknown_token_id'] = vocab[unknown]
  return _Vocabulary(tokens | added, fields, scores)


def _byte_level(spec: Mapping[str, Any], name: str) -> _Vocabulary:
  tokens = {id: (token, NORMAL) for token, id in spec['model']['vocab'].items()}
  merges = [f'{left} {right}' for left, right in _merges(spec)]
  fields = {'model': 'gpt2', 'pre': name, 'merges': merges}
  return _Vocabulary(tokens | _added(spec), fields)


def _added(spec: Mapping[str, Any]) -> dict[int, tuple[str, int]]:
  """Return the tokens that are recognised in text before it is split."""
  return {
    token['id']: (token['content'], USER_DEFINED) for token in spec['added_tokens']
  }


def _merges(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  for merge in spec['model']['merges']:
    left, right = merge.split(' ', 1) if isinstance(merge, str) else merge
    yield left, right


def find_name(tokenizer: tokenizers.Tokenizer) -> str:
  """Return llama.cpp's name of how a byte-level tokenizer splits text."""

  def split(pre_tokenizer: Any) -> list[str] | None:
    return pre_tokenizer and [w for w, _ in pre_tokenizer.pre_tokenize_str(PROBE)]

  normalizer = tokenizer.normalizer
  normal = normalizer.normalize_str(PROBE) if normalizer else PROBE
  words = split(tokenizer.pre_tokenizer)
  whole_words = getattr(tokenizer.model, 'ignore_merges', False)
  for name, splitter in SPLITTERS.items():
    same_options = splitter.whole_words == whole_words
    if (normal != PROBE) == splitter.composed and same_options:
      if split(make_pre_tokenizer(splitter)) == words:
        return name
  raise ValueError(
    'the tokenizer cannot be exported as GGUF: it splits text into words in another'
    f' way than {", ".join(SPLITTERS)} of llama.cpp'
  )
