# SPDX-License-Identifier: Apache-2.0
"""Config sections of models and data."""

import dataclasses
import datetime
from typing import Literal

from acl_jax.models import quantisation
from acl_jax.models.attention_decoder import DecoderConfig
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.llama import LlamaConfig
from acl_jax.models.lora import LoRAConfig
from acl_jax.models.transcript_writer import MAX_BEAMS
from acl_jax.models.whisper import WhisperConfig
from data_pipeline.augment import Augmentation, Masking
from data_pipeline.features import HOP, SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis of a slice; -1 for one axis: all that remain."""

  data: int  # copies of the model on each slice
  fsdp: int  # shards of every parameter
  tensor: int  # shards of the computation within a layer

  @property
  def sizes(self) -> dict[str, int]:
    """Axis sizes by name."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class LLMConfig:
  """The frozen LLM."""

  path: str  # asset:NAME, a Hugging Face or Meta folder, or a GGUF file
  dtype: str  # of the weights: float32, bfloat16, int8 or int4
  sharding: str  # fsdp, or replicated: sharded along mesh.tensor only
  sizes: LlamaConfig | None  # checked against the files; needed to plan without them
  lora: LoRAConfig | None = None  # None: frozen, which is the method
  date: str = '2024-07-26'  # the day it is told, if its chat template tells it one

  def __post_init__(self):
    if self.lora is not None and self.dtype in quantisation.DTYPES:
      raise ValueError(
        f'lora needs a dtype of float32 or bfloat16; it is {self.dtype!r}'
      )
    try:
      _ = self.today
    except ValueError:
      raise ValueError(f'date = {self.date!r} is not a day like 2024-07-26') from None

  @property
  def today(self) -> datetime.date:
    """The date."""
    return datetime.date.fromisoformat(self.date)


@dataclasses.dataclass(frozen=True)
class TrainableEncoderConfig:
  """What every encoder's section has: which of its parameters train, and how fast."""

  kind: str
  path: str
  trains: Literal['none', 'lora', 'full']  # none: every utterance is encoded once
  lr_scale: float  # learning rate of the encoder / that of the adapter
  layer_lr_decay: float = 1.0  # learning rate of a layer / that of the layer above
  lora: LoRAConfig | None = None  # set if trains is 'lora', else None
  trailing_silence: float = 0.0  # seconds after every utterance; Whisper expects some

  def __post_init__(self):
    if (self.lora is not None) != (self.trains == 'lora'):
      raise ValueError(
        f'trains is {self.trains!r} and lora is {"" if self.lora else "not "}set; lora'
        " is for trains = 'lora'"
      )
    if not 0 < self.layer_lr_decay <= 1:
      raise ValueError(
        f'layer_lr_decay = {self.layer_lr_decay} is not above 0 and at most 1'
      )

  @property
  def is_trained(self) -> bool:
    """Whether any of its parameters train."""
    return self.trains != 'none'


@dataclasses.dataclass(frozen=True)
class WhisperEncoderConfig(TrainableEncoderConfig):
  """Whisper's audio encoder."""

  kind: Literal['whisper']
  path: str  # asset:NAME, or a Hugging Face or CTranslate2 folder
  _: dataclasses.KW_ONLY
  sizes: WhisperConfig | None  # checked against the files; needed to plan without them

  def configure(self, sizes: WhisperConfig) -> WhisperConfig:
    """Return the config of an encoder with these sizes."""
    frames = round(self.trailing_silence * SAMPLE_RATE / HOP)
    return dataclasses.replace(sizes, trailing_silence=frames)


@dataclasses.dataclass(frozen=True)
class ConformerEncoderConfig(TrainableEncoderConfig):
  """A Conformer from `pretrain`, or a Parakeet CTC from Hugging Face."""

  kind: Literal['conformer']
  path: str  # asset:NAME or a folder
  _: dataclasses.KW_ONLY
  sizes: ConformerConfig | None  # checked against the files; needed to plan without

  def __post_init__(self):
    super().__post_init__()
    if self.trailing_silence:
      raise ValueError(
        f'trailing_silence = {self.trailing_silence} is for Whisper, which was trained'
        ' with silence after the speech; set it to 0'
      )


EncoderConfig = WhisperEncoderConfig | ConformerEncoderConfig


@dataclasses.dataclass(frozen=True)
class PretrainEncoderConfig:
  """The Conformer that `pretrain` trains."""

  kind: Literal['conformer']
  sizes: ConformerConfig


@dataclasses.dataclass(frozen=True)
class StrideConfig:
  """Adapter that stacks encoder frames and projects them."""

  kind: Literal['stride']
  stack: int  # encoder frames per embedding
  hidden_size: int | None  # of Ultravox's projector; None: the paper's linear map
  lora: LoRAConfig | None = None  # None: all of it trains, not only factors


@dataclasses.dataclass(frozen=True)
class CTCConfig:
  """Adapter that recognises the LLM's tokens; one expected embedding per token."""

  kind: Literal['ctc']
  stack: int  # encoder frames per token frame; half as many per letter frame
  letter_hidden_size: int
  letter_layers: int  # 0: no letters
  hidden_size: int
  num_layers: int
  kernel_size: int  # of the convolutions, in frames
  dropout: float
  spelling_size: int  # width of the spelling vectors of tokens
  lora: LoRAConfig | None = None  # None: all of it trains, not only factors


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
  """Adapter whose decoder writes the LLM's tokens; one embedding per token."""

  kind: Literal['attention']
  path: str  # Whisper whose decoder it starts from: asset:NAME or a folder; '': new
  stack: int  # encoder frames per token at least, which limits the tokens
  sizes: DecoderConfig | None  # of a new decoder; None with a path
  lora: LoRAConfig | None = None  # None: all of it trains, not only factors
  beams: int = 1  # of the search for what to write; 1: greedy, as training always is

  def __post_init__(self):
    if self.stack < 1:
      raise ValueError(f'stack = {self.stack} is not at least 1')
    if not 1 <= self.beams <= MAX_BEAMS:
      raise ValueError(f'beams = {self.beams} is not from 1 to {MAX_BEAMS}')
    if bool(self.path) == (self.sizes is not None):
      raise ValueError('exactly one of path and sizes must be set')


AdapterConfig = StrideConfig | CTCConfig | AttentionConfig


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
  """The training corpora and how they are batched."""

  train: tuple[tuple[str, float], ...]  # prepared folder or its URL, weight in the mix
  copies: int  # of every utterance, each augmented differently
  row_frames: int | None  # encoder frames of a packed row; None: one utterance a row
  buckets: tuple[int, ...]  # encoder frames of an unpacked row; unused with row_frames

  def __post_init__(self):
    if self.copies < 1:
      raise ValueError(f'config.data.copies = {self.copies} is not at least 1')
    if self.row_frames is None and not self.buckets:
      raise ValueError('config.data has neither row_frames nor buckets')

  @property
  def max_frames(self) -> int:
    """Encoder frames of the longest row."""
    return max(self.buckets) if self.row_frames is None else self.row_frames


@dataclasses.dataclass(frozen=True)
class DataConfig(CorpusConfig):
  """The data of `train`."""

  row_tokens: int | None  # LLM tokens of a packed row: embeddings, prompts, responses
  targets: str  # output folder of decode_targets
  leave_out: tuple[str, ...]  # flags of responses that are left out


@dataclasses.dataclass(frozen=True)
class PretrainDataConfig(CorpusConfig):
  """The data of `pretrain`."""

  dev: str  # prepared folder to measure word error rates on at every save; '': none


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
  """Augmentation of a corpus, and the number of copies of each utterance."""

  augmentation: Augmentation | None = None
  masking: Masking | None = None
  copies: int = 1
  seed: int = 0


def format_mixture(mixture: tuple[tuple[str, float], ...]) -> str:
  """Format folders and weights for `parse_mixture`."""
  return ','.join(
    folder if weight == 1 else f'{folder}*{weight:g}' for folder, weight in mixture
  )


def parse_mixture(text: str) -> tuple[tuple[str, float], ...]:
  """Parse `folder` or `one*3,other*1.5` into folders and their weights."""
  parts = (part.strip().partition('*') for part in text.split(','))
  try:
    return tuple((folder, float(weight or 1)) for folder, _, weight in parts)
  except ValueError:
    raise ValueError(
      f'config.data.train = {text!r}: write folder, or folder*3,other*1.5'
    ) from None
