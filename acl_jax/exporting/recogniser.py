# SPDX-License-Identifier: Apache-2.0
"""Pretrained Conformers as Transformers' own `ParakeetForCTC`, without custom code."""

from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from acl_jax.build import ENCODER_FOLDER
from acl_jax.config.experiment import PretrainConfig
from acl_jax.exporting.description import write_json
from acl_jax.exporting.folder import atomic_folder, check_disk_space
from acl_jax.text.ctc_vocabulary import FILES, Vocabulary, normalise
from acl_jax.weights import safetensors
from acl_jax.weights.parakeet import (
  CONFIG,
  describe_conformer,
  export_conformer,
  load_conformer,
)

BLANK_TOKEN = '<pad>'


def export(
  config: PretrainConfig, output: Path, checkpoint: str | None, about: str
) -> None:
  """Write the folder `output`: weights, tokenizer, feature extractor and model card.

  checkpoint: a workdir of `pretrain` or an encoder folder. about: data and training.
  ValueError if Transformers cannot represent the model.
  """
  origin = _find_encoder(config, checkpoint)
  for path in safetensors.weight_files(origin):
    safetensors.verify_checksum(path)
  model = load_conformer(origin)
  if not model.recognises:
    raise ValueError(f'{origin}: has no CTC head, which a recogniser needs')
  if (features := model.config.features) != 'parakeet':
    raise ValueError(
      f'{origin}: has {features} features; Transformers supports parakeet only'
    )
  tensors = [*export_conformer(model)]
  check_disk_space(output, sum(tensor.nbytes for _, tensor in tensors))
  with atomic_folder(output) as folder:
    _write_tokenizer(folder, origin)
    _write_feature_extractor(folder, model.config.num_mel_bins)
    card = (
      f'# A speech recogniser\n\n`ParakeetForCTC` by `acl_jax.pretrain`.\n\n{about}\n'
    )
    (folder / 'README.md').write_text(card)
    safetensors.write(folder, tensors)
    write_json(folder / CONFIG, describe_conformer(model))


def _find_encoder(config: PretrainConfig, checkpoint: str | None) -> Path:
  if checkpoint is None:
    raise ValueError('--checkpoint is missing: no recogniser is shipped')
  folder = Path(checkpoint) / ENCODER_FOLDER
  return folder if folder.is_dir() else Path(checkpoint)


def _write_feature_extractor(folder: Path, num_mel_bins: int) -> None:
  settings: dict[str, Any] = {
    'feature_extractor_type': 'ParakeetFeatureExtractor',
    'processor_class': 'ParakeetProcessor',
    'feature_size': num_mel_bins,
    'sampling_rate': 16_000,
    'n_fft': 512,
    'win_length': 400,
    'hop_length': 160,
    'preemphasis': 0.97,
  }
  write_json(folder / 'preprocessor_config.json', settings)
  write_json(folder / 'processor_config.json', {'processor_class': 'ParakeetProcessor'})


def _write_tokenizer(folder: Path, origin: Path) -> None:
  """Write the vocabulary for the tokenizers library, with the blank as last token."""
  vocabulary = Vocabulary(origin)
  sentencepiece_file, tokenizers_file = (origin / name for name in FILES)
  if sentencepiece_file.is_file():
    exported = _convert_unigram(sentencepiece_file)
  else:
    exported = tokenizers.Tokenizer.from_file(str(tokenizers_file))
  every_piece = vocabulary.decode(range(1, len(vocabulary)))  # 0 is the unknown piece
  probe = normalise(every_piece)
  if exported.encode(probe).ids != vocabulary.encode(probe):
    raise ValueError(f'{origin}: the vocabulary cannot be exported; ids would differ')
  blank = exported.id_to_token(len(vocabulary)) or BLANK_TOKEN
  exported.add_special_tokens([AddedToken(blank, special=True, normalized=False)])
  exported.save(str(folder / 'tokenizer.json'))
  settings = {
    'tokenizer_class': 'ParakeetTokenizerFast',
    'pad_token': blank,
    'processor_class': 'ParakeetProcessor',
  }
  write_json(folder / 'tokenizer_config.json', settings)


def _convert_unigram(path: Path) -> tokenizers.Tokenizer:
  """Convert a unigram sentencepiece model."""
  model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
  ids = range(model.get_piece_size())
  pieces = [*zip(map(model.id_to_piece, ids), map(model.get_score, ids), strict=True)]
  unigram = models.Unigram(pieces, unk_id=model.unk_id())
  tokenizer = tokenizers.Tokenizer(unigram)
  nfkc, lowercase = normalizers.NFKC(), normalizers.Lowercase()
  tokenizer.normalizer = normalizers.Sequence([nfkc, lowercase])
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  return tokenizer
