# SPDX-License-Identifier: Apache-2.0
"""The LLM's tokenizer for Transformers: files of the tokenizers library.

`<|audio|>` is added as a special token. A conversion that does not give the same ids
for some probe texts is refused.
"""

import itertools
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from acl_jax.exporting.chat_template import describe_template
from acl_jax.exporting.description import write_json
from acl_jax.text.templates import Template
from acl_jax.text.tokenizer import SentencePieceBackend, Tokenizer, TokenizersBackend

AUDIO_TOKEN = '<|audio|>'
SPACE_SYMBOL = '\N{LOWER ONE EIGHTH BLOCK}'  # a space in sentencepiece's pieces
PROBE_TEXTS = (
  'What is the capital of France?',
  "  It's 12345.67 or\n\n\tso…  they say: naïve café, 漢字 🙂 ",
  'def f(x):\n    return x**2 # ok',
  'a',
)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, template: Template) -> int:
  """Write the tokenizer and its chat template; returns the id of `<|audio|>`.

  ValueError if the tokenizers library does not give the same ids.
  """
  converted = convert_tokenizer(tokenizer)
  check_equal(converted, tokenizer)
  audio_token = AddedToken(AUDIO_TOKEN, special=True, normalized=False)
  converted.add_special_tokens([audio_token])
  audio_id = converted.token_to_id(AUDIO_TOKEN)
  assert audio_id is not None
  converted.save(str(folder / 'tokenizer.json'))
  names = {id: name for name, id in tokenizer.control_tokens.items()}
  end = names[tokenizer.eos_id]
  settings: dict[str, Any] = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'clean_up_tokenization_spaces': False,
    'eos_token': end,
    'pad_token': end,
    'padding_side': 'left',
    'model_input_names': ['input_ids', 'attention_mask'],
  }
  if tokenizer.bos_id is not None:
    settings['bos_token'] = names[tokenizer.bos_id]
  write_json(folder / 'tokenizer_config.json', settings)
  (folder / 'chat_template.jinja').write_text(describe_template(template))
  return audio_id


def convert_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
  """Convert to the tokenizers library, control tokens included.

  ValueError if a control token would get another id.
  """
  backend = tokenizer.backends.nothing
  if isinstance(backend, TokenizersBackend):
    converted = tokenizers.Tokenizer.from_str(backend.tokenizer.to_str())
  else:
    converted = _convert_sentencepiece(backend, tokenizer.adds_prefix_space)
  by_id = sorted(tokenizer.control_tokens.items(), key=lambda item: item[1])
  converted.add_special_tokens(
    [AddedToken(name, special=True, normalized=False) for name, _ in by_id]
  )
  for name, expected in by_id:
    if (actual := converted.token_to_id(name)) != expected:
      raise ValueError(
        f'the tokenizer cannot be exported: the id of {name} would be {actual}, not'
        f' {expected}'
      )
  return converted


def check_equal(converted: tokenizers.Tokenizer, original: Tokenizer) -> None:
  """Raise ValueError unless both encode and decode the probe texts equally."""
  for text in PROBE_TEXTS:
    ids = converted.encode(text, add_special_tokens=False).ids
    expected = original.encode(text)
    if ids != expected or converted.decode(ids) != original.decode(expected):
      raise ValueError(
        f'the tokenizer cannot be exported: {text!r} would be {ids}, not {expected}'
      )


def _convert_sentencepiece(
  backend: SentencePieceBackend, adds_prefix_space: bool
) -> tokenizers.Tokenizer:
  """Convert Llama-2's sentencepiece model to byte-pair merges."""
  model = backend.processor
  pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
  vocab = {piece: i for i, piece in enumerate(pieces)}
  merges = []
  for i, piece in enumerate(pieces):
    if model.is_control(i) or model.is_byte(i) or model.is_unknown(i):
      continue
    halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
    pairs = [pair for pair in halves if pair[0] in vocab and pair[1] in vocab]
    pairs.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    merges += zip(itertools.repeat(-model.get_score(i)), pairs)
  merges.sort(key=lambda scored: scored[0])  # likely pieces are merged first
  converted = tokenizers.Tokenizer(
    models.BPE(
      vocab=vocab,
      merges=[pair for _, pair in merges],
      unk_token=model.id_to_piece(model.unk_id()),
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  replace_spaces = normalizers.Replace(' ', SPACE_SYMBOL)
  decode_steps = [
    decoders.Replace(SPACE_SYMBOL, ' '),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  converted.normalizer = replace_spaces
  if adds_prefix_space:
    prepend_space = normalizers.Prepend(SPACE_SYMBOL)
    converted.normalizer = normalizers.Sequence([prepend_space, replace_spaces])
    decode_steps.append(decoders.Strip(' ', 1, 0))
  converted.decoder = decoders.Sequence(decode_steps)
  return converted
