# SPDX-License-Identifier: Apache-2.0
"""A frozen Llama with speech input.

An audio encoder and a projector turn speech into embeddings that the LLM reads in place
of those of text.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
  MODEL_FOR_CAUSAL_LM_MAPPING,
  AutoModelForCausalLM,
  GenerationMixin,
  PreTrainedModel,
)
from transformers.utils import cached_file

from .attention_projector import AttentionProjector
from .audio_towers import encode, make_tower
from .configuration_audio_chat_llama import AudioChatLlamaConfig
from .ctc_projector import CTCProjector
from .projectors import LinearProjector, SwiGLUProjector

# Arguments of `from_pretrained` that also apply to an LLM outside the folder.
LLM_OPTIONS = (
  'dtype',
  'torch_dtype',
  'device_map',
  'attn_implementation',
  'quantization_config',
  'cache_dir',
  'local_files_only',
  'token',
  'max_memory',
)


class AudioChatLlamaModel(PreTrainedModel, GenerationMixin):
  """An `audio_tower`, a `multi_modal_projector` and a `language_model`.

  Where `input_ids` equal `config.audio_token_index` the LLM reads audio embeddings. A
  CTC or attention projector leaves some of these positions empty; they are masked.
  """

  config_class = AudioChatLlamaConfig
  main_input_name = 'input_ids'
  # Small beside the LLM, and recognition depends on their precision.
  _keep_in_fp32_modules_strict = ['audio_tower', 'multi_modal_projector']
  _no_split_modules = ['LlamaDecoderLayer', 'WhisperTower', 'ParakeetEncoder']
  _supports_sdpa = True

  def __init__(self, config: AudioChatLlamaConfig):
    super().__init__(config)
    self.audio_tower = make_tower(config.audio_config)
    self.multi_modal_projector = make_projector(config)
    self.language_model = None
    if config.text_model_id is None:
      create = MODEL_FOR_CAUSAL_LM_MAPPING[type(config.text_config)]
      self.language_model = create(config.text_config)
    self.post_init()

  @classmethod
  def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
    """Load like Transformers, and an LLM outside the folder too."""
    loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    if model.language_model is None:
      options = {key: kwargs[key] for key in LLM_OPTIONS if key in kwargs}
      if not options.keys() & {'dtype', 'torch_dtype'}:
        options['torch_dtype'] = 'auto'
      model.language_model = load_llm(model.config, options).eval()
    return loaded

  def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs):
    """Save like Transformers, but leave out an LLM that is outside the folder."""
    if self.config.text_model_id is not None:
      tensors = self.state_dict() if state_dict is None else state_dict
      prefix = 'language_model.'
      state_dict = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
    super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)

  def get_input_embeddings(self) -> nn.Module:
    return self.language_model.get_input_embeddings()

  def get_output_embeddings(self) -> nn.Module | None:
    return None if self.language_model is None else self.language_model.lm_head

  def encode_audio(
    self, audio_values: torch.Tensor, audio_lens: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log-mel [a m t] and lengths [a] -> embeddings [a s e] and two masks [a s].

    The first mask marks the positions that each clip takes in the prompt, one for every
    `stack_factor` of its encoder frames; the second those that hold an embedding.
    """
    index = torch.arange(audio_values.shape[2], device=audio_values.device)
    frame_mask = index[None] < audio_lens[:, None].to(index.device)
    frames, frame_mask = encode(self.audio_tower, audio_values, frame_mask)
    table = self.get_input_embeddings().weight.to(frames.device)
    embeddings, embedding_mask = self.multi_modal_projector(frames, frame_mask, table)
    position_mask = frame_mask[:, :: self.config.stack_factor]
    return embeddings, position_mask, embedding_mask

  def embed_prompt(
    self,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    audio_values: torch.Tensor,
    audio_lens: torch.Tensor,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the prompt's embeddings [b t e] and its attention mask [b t].

    ValueError if the audio tokens in `input_ids` do not match the lengths of the audio.
    """
    embeddings, position_mask, embedding_mask = self.encode_audio(
      audio_values, audio_lens
    )
    is_audio = input_ids == self.config.audio_token_index
    reserved, needed = int(is_audio.sum()), int(position_mask.sum())
    if reserved != needed:
      raise ValueError(
        f'input_ids reserve {reserved} positions for audio; the audio needs {needed}'
      )
    text = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
    x, mask = text.clone(), attention_mask.clone()
    x[is_audio] = embeddings[position_mask].to(x)
    mask[is_audio] = embedding_mask[position_mask].to(mask)
    return x * mask[..., None].to(x.dtype), mask

  def forward(
    self,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    audio_values: torch.Tensor | None = None,
    audio_lens: torch.Tensor | None = None,
    audio_token_len: torch.Tensor | None = None,
    **kwargs,
  ):
    """Run the LLM on text and audio; `labels` must be -100 at audio positions.

    audio_values: log-mel spectrograms [a m t] in the order of their positions in the
      prompts. audio_lens: frames of each [a]. audio_token_len: not used.
    """
    if audio_values is not None:
      if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
      kwargs['inputs_embeds'], attention_mask = self.embed_prompt(
        input_ids, attention_mask, audio_values, audio_lens
      )
      input_ids = None
      kwargs.setdefault('position_ids', (attention_mask.cumsum(1) - 1).clamp(min=0))
    return self.language_model(
      input_ids=input_ids, attention_mask=attention_mask, **kwargs
    )

  @torch.no_grad()
  def generate(
    self,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    audio_values: torch.Tensor | None = None,
    audio_lens: torch.Tensor | None = None,
    audio_token_len: torch.Tensor | None = None,
    **kwargs,
  ):
    """Generate like Transformers: returns the prompts followed by the responses.

    The LLM itself reads embeddings, so a streamer does not receive the prompt.
    """
    self.language_model.generation_config = self.generation_config
    if attention_mask is None:
      attention_mask = torch.ones_like(input_ids)
    if audio_values is None:
      return self.language_model.generate(
        input_ids, attention_mask=attention_mask, **kwargs
      )
    x, mask = self.embed_prompt(input_ids, attention_mask, audio_values, audio_lens)
    x, mask = pad_left(x, mask)
    output = self.language_model.generate(
      inputs_embeds=x, attention_mask=mask, **kwargs
    )
    responses = output if isinstance(output, torch.Tensor) else output.sequences
    copies = len(responses) // len(input_ids)
    prompts = input_ids.repeat_interleave(copies, 0).to(responses.device)
    sequences = torch.cat([prompts, responses], 1)
    if output is responses:
      return sequences
    output.sequences = sequences
    return output


def make_projector(config: AudioChatLlamaConfig) -> nn.Module:
  """Make the projector that a configuration describes."""
  stack, inputs = config.stack_factor, config.audio_config.hidden_size
  outputs = config.text_config.hidden_size
  if config.attention is not None:
    return AttentionProjector(stack, inputs, outputs, config.attention)
  if config.ctc is not None:
    return CTCProjector(stack, inputs, outputs, config.ctc)
  if config.hidden_size is None:
    return LinearProjector(stack, inputs, outputs)
  return SwiGLUProjector(stack, inputs, config.hidden_size, outputs)


def load_llm(config: AudioChatLlamaConfig, options: dict[str, Any]) -> PreTrainedModel:
  """Load the LLM that a configuration refers to; ValueError if its files differ."""
  source = config.text_model_id
  hub_keys = ('cache_dir', 'local_files_only', 'token')
  hub_options = {key: options[key] for key in hub_keys if key in options}
  for name, expected in (config.text_model_sha256 or {}).items():
    local = Path(source) / name
    path = local if local.is_file() else cached_file(source, name, **hub_options)
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
      while chunk := file.read(1 << 20):
        digest.update(chunk)
    if (sha256 := digest.hexdigest()) != expected:
      raise ValueError(
        f'{path}: sha256 is {sha256}; the LLM of this model has {expected}'
      )
    if name.endswith('.gguf'):
      options = {**options, 'gguf_file': name}
  return AutoModelForCausalLM.from_pretrained(source, **options)


def pad_left(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
  """Move the masked positions of rows [b t e] to the left and trim common padding."""
  order = mask.bool().int().argsort(dim=1, stable=True)
  width = int(mask.bool().sum(1).max())
  order = order[:, order.shape[1] - width :]
  return x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), mask.gather(1, order)
