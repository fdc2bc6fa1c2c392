# SPDX-License-Identifier: Apache-2.0
"""From a request to a prompt with audio embeddings: vLLM's processor of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser
from vllm.multimodal.processing import (
  BaseDummyInputsBuilder,
  BaseMultiModalProcessor,
  BaseProcessingInfo,
  PromptReplacement,
  PromptUpdateDetails,
)

from acl_jax_vllm.hearing import Hearing

AUDIO_TOKEN, SAMPLE_RATE = '<|audio|>', 16_000
MAX_SECONDS, FRAMES_PER_SECOND = 300, 100  # of a clip, of its spectrogram
DUMMY_SECONDS = 1
_hearings: dict[tuple, Hearing] = {}  # one for each folder, dtype and process


class Info(BaseProcessingInfo):
  """Limits and parts of an exported folder."""

  def get_supported_mm_limits(self) -> Mapping[str, int | None]:
    return {'audio': None}

  def get_mm_max_tokens_per_item(
    self, seq_len: int, mm_counts: Mapping[str, int]
  ) -> Mapping[str, int]:
    """Every position of the longest clip; a projector leaves some of them empty."""
    processor = self.get_hf_processor()
    stride = processor.subsampling * processor.stack_factor
    longest = -(-MAX_SECONDS * FRAMES_PER_SECOND // stride)
    return {'audio': min(longest, seq_len)}

  def get_data_parser(self) -> MultiModalDataParser:
    return MultiModalDataParser(
      target_sr=SAMPLE_RATE, target_channels=1, audio_resample_method='soxr'
    )

  def get_default_tok_params(self):
    return super().get_default_tok_params().with_kwargs(add_special_tokens=False)

  def hearing(self) -> Hearing:
    """Return the encoder and the projector; they are loaded once in a process."""
    model = self.ctx.model_config
    key = model.model, model.revision, model.dtype
    if key not in _hearings:
      config = self.get_hf_config()
      _hearings[key] = Hearing(model.model, config, model.dtype, model.revision)
    return _hearings[key]


class DummyInputs(BaseDummyInputsBuilder[Info]):
  """Inputs that vLLM measures its memory with."""

  def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
    return AUDIO_TOKEN * mm_counts.get('audio', 0)

  def get_dummy_mm_data(self, seq_len, mm_counts, mm_options) -> Any:
    clip = np.zeros(DUMMY_SECONDS * SAMPLE_RATE, np.float32)
    return {'audio': [clip] * mm_counts.get('audio', 0)}


class Processor(BaseMultiModalProcessor[Info]):
  """Hears the audio of a request; each of its embeddings takes a position."""

  def _get_hf_mm_text(self, mm_counts: Mapping[str, int]) -> str:
    return self.dummy_inputs.get_dummy_text(mm_counts)

  def _call_hf_processor(self, hf_data, hf_kwargs) -> BatchFeature:
    inputs = self.info.get_hf_processor()(
      text=hf_data['text'],
      audio=[*hf_data['audio']],
      sampling_rate=SAMPLE_RATE,
      include_audio_num_chunks=True,
    )
    windows = self.info.hearing().embed(inputs['audio_values'], inputs['audio_lens'])
    embeds, sizes, start = [], [], 0
    for count in inputs['audio_num_chunks'].tolist():
      clip, start = windows[start : start + count], start + count
      if not any(map(len, clip)):
        clip = [self._embed_space()]
      embeds.append(torch.cat(clip))
      sizes.append(torch.tensor([len(window) for window in clip]))
    return BatchFeature({'audio_embeds': embeds, 'audio_window_sizes': sizes})

  def _embed_space(self) -> torch.Tensor:
    """Return what stands for audio in which nothing is heard [n e].

    Audio must take a position in vLLM.
    """
    ids = self.info.get_hf_processor()._encode_continuation(' ')
    return self.info.hearing().table[ids]

  def _get_mm_fields_config(self, hf_inputs, hf_processor_mm_kwargs):
    return {
      'audio_embeds': MultiModalFieldConfig.batched('audio'),
      'audio_window_sizes': MultiModalFieldConfig.batched('audio', keep_on_cpu=True),
    }

  def _get_prompt_updates(
    self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs
  ) -> Sequence[PromptReplacement]:
    processor = self.info.get_hf_processor()
    audio_id = self.info.get_hf_config().audio_token_index
    space = processor._encode_continuation(' ')

    def replacement(index: int) -> PromptUpdateDetails:
      """Positions of every window, and a space between windows."""
      sizes = out_mm_kwargs['audio'][index]['audio_window_sizes'].data
      ids: list[int] = []
      for number, size in enumerate(sizes.tolist()):
        ids += (space if number else []) + [audio_id] * size
      return PromptUpdateDetails.select_token_id(ids, audio_id)

    return [PromptReplacement('audio', [audio_id], replacement)]
