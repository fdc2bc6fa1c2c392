# SPDX-License-Identifier: Apache-2.0
"""Config sections of the stages of training and of the decoding of targets."""

import dataclasses
import math

from acl_jax.generation.sampling import Sampling
from acl_jax.text.instructions import check_instructions


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """Steps, optimizer and logging of a stage."""

  steps: int  # 0: the stage is skipped
  frames_per_batch: int  # encoder frames, padding included
  peak_lr: float
  warmup_steps: int
  weight_decay: float  # decoupled, only of matrices
  clip_norm: float  # limit on the global norm of the gradient
  skip_spikes: bool  # skip steps whose loss is 6 sigma above the last 128
  log_every: int  # steps
  save_every: int  # steps


@dataclasses.dataclass(frozen=True)
class CTCStageConfig(StageConfig):
  """CTC training of a CTC or a stride adapter on the LLM's tokens."""

  sampled_classes: int  # width of a batch's softmax


@dataclasses.dataclass(frozen=True)
class TranscriptionStageConfig(StageConfig):
  """Training of an attention adapter to write transcripts in the LLM's tokens."""

  sampled_classes: int  # width of a batch's softmax
  label_smoothing: float

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f'label_smoothing = {self.label_smoothing} is not in [0, 1)')


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
  """A loss on the student's own answers to the audio of its batches."""

  weight: float  # of KL(teacher || student) at the tokens of the answers
  refresh_every: int  # steps; their answers are generated together, before the first
  max_new_tokens: int  # of an answer; the padding of its row may allow fewer
  sampling: Sampling

  def __post_init__(self):
    if not 0 < self.weight < math.inf:
      raise ValueError(
        f'weight is {self.weight}; it must be a positive finite number. Without the'
        ' loss, on_policy is None'
      )
    for name in ('refresh_every', 'max_new_tokens'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be at least 1')


@dataclasses.dataclass(frozen=True)
class ResponseStageConfig(StageConfig):
  """Training on the frozen LLM's responses."""

  kl_weight: float  # of the KL divergence to the teacher's top tokens; 0: none
  kl_temperature: float
  ctc_weight: float  # of the CTC loss of a CTC adapter; 0: none
  transcription_weight: float  # of the transcription loss of an attention adapter
  remat: str | None  # what the backward pass recomputes: full, dots or None
  on_policy: OnPolicyConfig | None = None  # None: no loss on the student's answers
  microbatches: int = 1  # parts of a batch that the LLM runs in turn, to save memory

  def __post_init__(self):
    if self.microbatches < 1:
      raise ValueError(f'microbatches is {self.microbatches}; it must be at least 1')


@dataclasses.dataclass(frozen=True)
class LettersConfig:
  """A CTC loss of letters at a middle layer of the encoder."""

  layer: int  # from 1
  per_frame: int  # letter frames per encoder frame; 0: no letters
  weight: float  # of the loss


@dataclasses.dataclass(frozen=True)
class PretrainStageConfig(StageConfig):
  """CTC pretraining of an encoder."""

  average_decay: float  # of the running average of parameters; 0: no average
  remat: str | None  # what the backward pass recomputes: full, dots or None
  letters: LettersConfig | None

  @property
  def letters_per_frame(self) -> int:
    """Letter frames per encoder frame; 0: no letter loss."""
    return 0 if self.letters is None else self.letters.per_frame


@dataclasses.dataclass(frozen=True)
class TargetsConfig:
  """Decoding of the frozen LLM's responses by `decode_targets`."""

  max_prompt_tokens: int  # template, instruction and transcript together
  max_new_tokens: int
  batch_size: int  # slots of the engine; no response depends on it
  sampling: Sampling
  repeats: int  # repetitions of an n-gram that end a response; 0: no limit
  top_k: int  # number of likeliest tokens stored at each step
  refusals: tuple[str, ...]  # prefixes of a response that flag it as a refusal
  instructions: tuple[tuple[str, float], ...]  # (text with {}, weight)
  cache_dtype: str  # of the KV cache: '' for the LLM's dtype, or int8

  def __post_init__(self):
    least = {
      'max_prompt_tokens': 1,
      'max_new_tokens': 1,
      'batch_size': 1,
      'top_k': 0,
      'repeats': 0,
    }
    for name, limit in least.items():
      if (value := getattr(self, name)) < limit:
        raise ValueError(
          f'config.targets.{name} is {value}; it must be at least {limit}'
        )
    if self.cache_dtype not in ('', 'int8'):
      raise ValueError(
        f"config.targets.cache_dtype is {self.cache_dtype!r}; known: '' and 'int8'"
      )
    check_instructions(self.instructions)
