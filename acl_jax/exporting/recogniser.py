# SPDX-License-Identifier: Apache-2.0
"""A pretrained Conformer as Transformers' own `ParakeetForCTC`, no code beside it."""

from pathlib import Path
from typing import Any

import ml_collections
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from acl_jax.build import ENCODER_FOLDER
from acl_jax.exporting.description import write_json
from acl_jax.exporting.folder import check_space, whole_folder
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.text.ctc_vocabulary import FILES, Vocabulary, normalise
from acl_jax.weights import safetensors
from acl_jax.weights.parakeet import (
  CONFIG,
  describe_conformer,
  export_conformer,
  load_conformer,
)

BLANK = '<pad>'


def export(
  config: ml_collections.ConfigDict, output: Path, checkpoint: str | None, about: str
) -> None:
  """Writes weights, tokenizer and the front end's settings."""
  origin = _find(config, checkpoint)
  for path in safetensors.files(origin):
    safetensors.check(path)
  model = load_conformer(origin)
  if not isinstance(model, ConformerCTC):
    raise ValueError(f'{origin}: has no CTC head; only with one does it recognise')
  described, tensors = describe_conformer(model), [*export_conformer(model)]
  if (features := model.config.features) != 'parakeet':
    raise ValueError(f'{origin}: hears {features}; Transformers has no such features')
  check_space(output, sum(tensor.nbytes for _, tensor in tensors))
  with whole_folder(output) as folder:
    _write_tokenizer(folder, origin)
    _write_front_end(folder, model.config.num_mel_bins)
    card = (
      f'# A speech recogniser\n\n`ParakeetForCTC` by `acl_jax.pretrain`.\n\n{about}\n'
    )
    (folder / 'README.md').write_text(card)
    safetensors.write(folder, tensors)
    write_json(folder / CONFIG, described)


def _find(config: ml_collections.ConfigDict, checkpoint: str | None) -> Path:
  if checkpoint is None:
    raise ValueError('--checkpoint is missing: no recogniser is shipped')
  if (kind := config.encoder.kind) != 'conformer':
    raise ValueError(f'config.encoder.kind is {kind!r}; known: conformer')
  folder = Path(checkpoint) / ENCODER_FOLDER
  return folder if folder.is_dir() else Path(checkpoint)


def _write_front_end(folder: Path, num_mel_bins: int) -> None:
  settings: dict[str, Any] = {
    'feature_extractor_type': 'ParakeetFeatureExtractor',
    'processor_class': 'ParakeetProcessor',
    'feature_size': num_mel_bins,
    **{'sampling_rate': 16_000, 'n_fft': 512, 'win_length': 400, 'hop_length': 160},
    'preemphasis': 0.97,
  }
  write_json(folder / 'preprocessor_config.json', settings)
  write_json(folder / 'processor_config.json', {'processor_class': 'ParakeetProcessor'})


def _write_tokenizer(folder: Path, origin: Path) -> None:
  """The vocabulary in the tokenizers library, the blank added behind it."""
  ours = Vocabulary(origin)
  pieces, spec = (origin / name for name in FILES)
  if pieces.is_file():
    made = _of_pieces(pieces)
  else:
    made = tokenizers.Tokenizer.from_file(str(spec))
  probe = normalise(ours.decode(range(1, len(ours))))  # the first is the unknown
  if made.encode(probe).ids != ours.encode(probe):
    raise ValueError(f'{origin}: the vocabulary cannot be exported; ids would differ')
  blank = made.id_to_token(len(ours)) or BLANK
  made.add_special_tokens([AddedToken(blank, special=True, normalized=False)])
  made.save(str(folder / 'tokenizer.json'))
  settings = {'tokenizer_class': 'ParakeetTokenizerFast', 'pad_token': blank}
  settings['processor_class'] = 'ParakeetProcessor'
  write_json(folder / 'tokenizer_config.json', settings)


def _of_pieces(path: Path) -> tokenizers.Tokenizer:
  """A unigram sentencepiece model; text is normalised by the caller."""
  model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
  ids = range(model.get_piece_size())
  pieces = [*zip(map(model.id_to_piece, ids), map(model.get_score, ids), strict=True)]
  made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=model.unk_id()))
  made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  return made
