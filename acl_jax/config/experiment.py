# SPDX-License-Identifier: Apache-2.0
"""The configs of the two kinds of experiments: `train` and `pretrain`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from acl_jax.config.parsing import parse
from acl_jax.config.sections import (
  AdapterConfig,
  AttentionConfig,
  AugmentationConfig,
  CTCConfig,
  DataConfig,
  EncoderConfig,
  LLMConfig,
  MeshConfig,
  PretrainDataConfig,
  PretrainEncoderConfig,
  parse_mixture,
)
from acl_jax.config.serving import ServeConfig
from acl_jax.config.stages import (
  CTCStageConfig,
  PretrainStageConfig,
  ResponseStageConfig,
  TargetsConfig,
  TranscriptionStageConfig,
)
from data_pipeline.augment import Augmentation, Masking


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The config of every program except `pretrain`."""

  seed: int
  init_from: str  # a workdir, an adapter file or an exported folder; '': from scratch
  shipped_adapter: str  # the default of --checkpoint; '': none
  mesh: MeshConfig
  llama: LLMConfig
  template: str  # auto: the LLM's own chat template; chatml, llama2, or a .jinja file
  encoder: EncoderConfig
  adapter: AdapterConfig
  data: DataConfig
  augmentation: Augmentation | None
  masking: Masking | None  # SpecAugment
  targets: TargetsConfig
  ctc: CTCStageConfig | None  # None: no CTC stage
  transcription: TranscriptionStageConfig | None  # None: no transcription stage
  response: ResponseStageConfig | None  # None: no response stage
  serve: ServeConfig = ServeConfig()

  def __post_init__(self):
    if isinstance(self.adapter, CTCConfig) and self.ctc is None:
      raise ValueError('config.ctc is None; a CTC adapter needs ctc.sampled_classes')
    if isinstance(self.adapter, AttentionConfig) and self.transcription is None:
      raise ValueError(
        'config.transcription is None; an attention adapter needs'
        ' transcription.sampled_classes'
      )
    packed = self.data.row_frames is not None and self.data.row_tokens is None
    if packed and self.response is not None:
      raise ValueError(
        'config.data.row_tokens is None; rows packed by row_frames need it'
      )
    if self.response and self.response.microbatches > 1 and self.llama.lora:
      raise ValueError(
        f'config.response.microbatches is {self.response.microbatches}, which needs a'
        ' frozen LLM; config.llama.lora is set'
      )
    if self.response and self.response.on_policy and not self.targets.top_k:
      raise ValueError(
        'config.targets.top_k is 0; config.response.on_policy compares that many of the'
        " teacher's likeliest tokens, at least 1"
      )

  @property
  def sampled_classes(self) -> int:
    """The width of a batch's softmax over the tokens that the adapter learns."""
    stages = {
      'ctc': self.ctc,
      'stride': self.ctc,
      'attention': self.transcription,
    }
    stage = stages.get(self.adapter.kind)
    return 0 if stage is None else stage.sampled_classes

  @property
  def utterance_augmentation(self) -> AugmentationConfig:
    """The augmentation of the corpus."""
    return AugmentationConfig(
      self.augmentation, self.masking, self.data.copies, self.seed
    )


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """The config of `pretrain`, which `export` and `plan` also accept."""

  seed: int
  init_from: str  # a folder of a Parakeet CTC model; '': from scratch
  mesh: MeshConfig
  vocabulary_size: int  # sentencepiece pieces
  max_piece_length: int  # characters
  encoder: PretrainEncoderConfig
  data: PretrainDataConfig
  augmentation: Augmentation | None
  masking: Masking | None  # SpecAugment
  ctc: PretrainStageConfig

  @property
  def utterance_augmentation(self) -> AugmentationConfig:
    """The augmentation of the corpus."""
    return AugmentationConfig(
      self.augmentation, self.masking, self.data.copies, self.seed
    )


Experiment = TrainConfig | PretrainConfig


def parse_experiment(config: Any) -> Experiment:
  """Parse a `ConfigDict` or mapping; one with an LLM becomes a `TrainConfig`."""
  values = _to_dict(config)
  return parse(TrainConfig if 'llama' in values else PretrainConfig, values)


def parse_train(config: Any) -> TrainConfig:
  """Parse the config of a program that needs an LLM."""
  values = _to_dict(config)
  if 'llama' not in values:
    raise ValueError('config.llama is missing: this is a config of pretrain')
  return parse(TrainConfig, values)


def parse_pretrain(config: Any) -> PretrainConfig:
  """Parse the config of `pretrain`."""
  values = _to_dict(config)
  if 'llama' in values:
    raise ValueError('config.llama is a key of train, not of pretrain')
  return parse(PretrainConfig, values)


def to_json(config: Experiment) -> dict[str, Any]:
  """Return the config as plain JSON values."""
  return dataclasses.asdict(config)


def _to_dict(config: Any) -> dict[str, Any]:
  """Return plain values; a string from a flag in `data.train` becomes pairs."""
  values = dict(config) if isinstance(config, Mapping) else config.to_dict()
  data = values.get('data')
  if isinstance(data, Mapping) and isinstance(data.get('train'), str):
    values['data'] = {**data, 'train': parse_mixture(data['train'])}
  return values
