# SPDX-License-Identifier: Apache-2.0
"""The LLM's tokenizer as files of the tokenizers library, `<|audio|>` added.

Only what gives the same ids as ours is written: a probe is compared.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from acl_jax.text.tokenizer import Merges, Pieces, Tokenizer

AUDIO = '<|audio|>'
TEMPLATES = Path(__file__).parent / 'templates'
SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # what sentencepiece writes for it
PROBES = (
  'What is the capital of France?',
  "  It's 12345.67 or\n\n\tso…  they say: naïve café, 漢字 🙂 ",
  'def f(x):\n    return x**2 # ok',
  'a',
)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, template: str) -> int:
  """Writes tokenizer and template; returns the id of `<|audio|>`.

  ValueError if the tokenizers library does not give the same ids.
  """
  made = as_tokenizers(tokenizer)
  compare(made, tokenizer)
  made.add_special_tokens([AddedToken(AUDIO, special=True, normalized=False)])
  audio = made.token_to_id(AUDIO)
  assert audio is not None
  made.save(str(folder / 'tokenizer.json'))
  names = {number: name for name, number in tokenizer.controls.items()}
  end = names[tokenizer.eos_id]
  described: dict[str, Any] = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'clean_up_tokenization_spaces': False,
    'eos_token': end,
    'pad_token': end,
    'padding_side': 'left',
    'model_input_names': ['input_ids', 'attention_mask'],
  }
  if tokenizer.bos_id is not None:
    described['bos_token'] = names[tokenizer.bos_id]
  text = json.dumps(described, indent=2, ensure_ascii=False)
  (folder / 'tokenizer_config.json').write_text(text + '\n')
  jinja = (TEMPLATES / f'{template}.jinja').read_text()
  (folder / 'chat_template.jinja').write_text(jinja)
  return audio


def as_tokenizers(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
  """Ours in the tokenizers library, control tokens included."""
  backend = tokenizer.backends.nothing
  if isinstance(backend, Merges):
    made = tokenizers.Tokenizer.from_str(backend.tokenizer.to_str())
  else:
    made = _of_pieces(backend, tokenizer.opens_with_space)
  by_number = sorted(tokenizer.controls, key=lambda name: tokenizer.controls[name])
  made.add_special_tokens(
    [AddedToken(name, special=True, normalized=False) for name in by_number]
  )
  for name, number in tokenizer.controls.items():
    if (given := made.token_to_id(name)) != number:
      raise ValueError(f'the tokenizer cannot be exported: {name} would be {given}')
  return made


def compare(made: tokenizers.Tokenizer, ours: Tokenizer) -> None:
  """ValueError unless both give the same ids, and the same text from them."""
  for text in PROBES:
    ids, wanted = made.encode(text, add_special_tokens=False).ids, ours.encode(text)
    if ids != wanted or made.decode(ids) != ours.decode(wanted):
      raise ValueError(
        f'the tokenizer cannot be exported: {text!r} would be {ids}, not {wanted}'
      )


def _of_pieces(backend: Pieces, opens_with_space: bool) -> tokenizers.Tokenizer:
  """Llama-2's sentencepiece model as byte-pair merges."""
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
  merges.sort(key=lambda scored: scored[0])  # the likeliest piece is made first
  made = tokenizers.Tokenizer(
    models.BPE(
      vocab=vocab,
      merges=[pair for _, pair in merges],
      unk_token=model.id_to_piece(model.unk_id()),
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  spaces = normalizers.Replace(' ', SPACE)
  back = [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
  made.normalizer, made.decoder = spaces, decoders.Sequence(back)
  if opens_with_space:
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
    made.decoder = decoders.Sequence([*back, decoders.Strip(' ', 1, 0)])
  return made
