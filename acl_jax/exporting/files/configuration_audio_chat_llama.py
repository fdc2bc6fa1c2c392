# SPDX-License-Identifier: Apache-2.0
"""Configuration of the model: an audio encoder, a projector, and a Llama."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class AudioChatLlamaConfig(PretrainedConfig):
  """Sizes and sources of the three parts; keys as in Ultravox where they agree.

  audio_config: configuration of a WhisperEncoder or ParakeetEncoder of Transformers.
  text_config: configuration of the LLM, a causal language model of Transformers.
  text_model_id: path or hub name of the LLM if its weights are not in this folder.
  text_model_sha256: of each file of the LLM's weights.
  audio_token_index: id in `input_ids` that stands for one audio embedding.
  stack_factor: encoder frames per audio embedding; a CTC or attention projector leaves
    some of these positions empty.
  hidden_size: of the projector RMSNorm, linear, SwiGLU, RMSNorm, linear; None for one
    linear map.
  ctc: sizes of a CTC projector, used instead; see `ctc_projector.CTCProjector`.
  attention: sizes of an attention projector, used instead; see
    `attention_projector.AttentionProjector`.
  """

  model_type = 'audio_chat_llama'
  sub_configs = {'audio_config': AutoConfig, 'text_config': AutoConfig}

  def __init__(
    self,
    audio_config: Any = None,
    text_config: Any = None,
    text_model_id: str | None = None,
    text_model_sha256: dict[str, str] | None = None,
    audio_token_index: int = 32_000,
    stack_factor: int = 8,
    hidden_size: int | None = None,
    ctc: dict[str, Any] | None = None,
    **kwargs,
  ):
    self.audio_config = _make_config(audio_config, 'whisper')
    self.text_config = _make_config(text_config, 'llama')
    self.text_model_id = text_model_id
    self.text_model_sha256 = text_model_sha256
    self.audio_token_index = audio_token_index
    self.stack_factor = stack_factor
    self.hidden_size = hidden_size
    self.ctc = ctc
    self.attention: dict[str, Any] | None = kwargs.pop('attention', None)
    self.vocab_size = self.text_config.vocab_size
    super().__init__(**kwargs)


def _make_config(value: Any, default_type: str) -> PretrainedConfig:
  """Make a configuration of a dictionary, or return one that is made already."""
  if isinstance(value, PretrainedConfig):
    return value
  fields = dict(value or {})
  return AutoConfig.for_model(fields.pop('model_type', default_type), **fields)
