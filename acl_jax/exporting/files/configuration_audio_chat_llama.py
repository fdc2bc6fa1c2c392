# SPDX-License-Identifier: Apache-2.0
"""What defines the model: an audio encoder, a projector, and a Llama."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class AudioChatLlamaConfig(PretrainedConfig):
  """Keys are those of Ultravox where they mean the same.

  audio_config: of Transformers' WhisperEncoder or ParakeetEncoder. text_config: of its
    LlamaForCausalLM.
  text_model_id: where the LLM is, if its weights are not in this folder: a path, or a
    name on the hub. text_model_sha256: of each file of its weights.
  audio_token_index: stands in `input_ids` where the LLM reads an audio embedding.
  stack_factor: encoder frames that become one audio embedding, or less.
  hidden_size: of a projector RMSNorm, linear, SwiGLU, RMSNorm, linear; None is one
    linear map.
  ctc: sizes of a projector that recognises tokens, instead of those; see there.
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
    self.audio_config = _configuration(audio_config, 'whisper')
    self.text_config = _configuration(text_config, 'llama')
    self.text_model_id = text_model_id
    self.text_model_sha256 = text_model_sha256
    self.audio_token_index = audio_token_index
    self.stack_factor = stack_factor
    self.hidden_size = hidden_size
    self.ctc = ctc
    self.vocab_size = self.text_config.vocab_size
    super().__init__(**kwargs)


def _configuration(given: Any, kind: str) -> PretrainedConfig:
  if isinstance(given, PretrainedConfig):
    return given
  fields = dict(given or {})
  return AutoConfig.for_model(fields.pop('model_type', kind), **fields)
