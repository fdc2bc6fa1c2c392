# SPDX-License-Identifier: Apache-2.0
"""A frozen Llama that hears: an audio encoder and a projector put speech where the
embeddings of its text go.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, LlamaForCausalLM, PreTrainedModel
from transformers.utils import cached_file

from .audio_towers import encode, make_tower
from .configuration_audio_chat_llama import AudioChatLlamaConfig
from .ctc_projector import CTCProjector
from .projectors import LinearProjector, SwiGLUProjector

# What `from_pretrained` is told of how to load holds for an LLM elsewhere, too.
FOR_THE_LLM = (
  *('dtype', 'torch_dtype', 'device_map', 'attn_implementation', 'quantization_config'),
  *('cache_dir', 'local_files_only', 'token', 'max_memory'),
)


class AudioChatLlamaModel(PreTrainedModel, GenerationMixin):
  """`audio_tower`, `multi_modal_projector`, `language_model`.

  Where `input_ids` are `config.audio_token_index` the LLM reads what was heard; with a
  projector that recognises some of these places stay empty, and are masked.
  """

  config_class = AudioChatLlamaConfig
  main_input_name = 'input_ids'
  # They decide what is heard; they are small beside the LLM.
  _keep_in_fp32_modules_strict = ['audio_tower', 'multi_modal_projector']
  _no_split_modules = ['LlamaDecoderLayer', 'WhisperTower', 'ParakeetEncoder']
  _supports_sdpa = True

  def __init__(self, config: AudioChatLlamaConfig):
    super().__init__(config)
    self.audio_tower = make_tower(config.audio_config)
    self.multi_modal_projector = make_projector(config)
    self.language_model = None
    if config.text_model_id is None:
      self.language_model = LlamaForCausalLM(config.text_config)
    self.post_init()

  @classmethod
  def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
    """As Transformers has it; fetches the LLM too if that is elsewhere."""
    loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    if model.language_model is None:
      how = {key: kwargs[key] for key in FOR_THE_LLM if key in kwargs}
      if not how.keys() & {'dtype', 'torch_dtype'}:
        how['torch_dtype'] = 'auto'
      model.language_model = load_llm(model.config, how).eval()
    return loaded

  def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs):
    """As Transformers has it, but an LLM that is elsewhere stays there."""
    if self.config.text_model_id is not None:
      everything = self.state_dict() if state_dict is None else state_dict
      outside = 'language_model.'
      state_dict = {k: v for k, v in everything.items() if not k.startswith(outside)}
    super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)

  def get_input_embeddings(self) -> nn.Module:
    return self.language_model.get_input_embeddings()

  def get_output_embeddings(self) -> nn.Module | None:
    return None if self.language_model is None else self.language_model.lm_head

  def hear(
    self, audio_values: torch.Tensor, audio_lens: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log-mel [a m t] and their lengths -> embeddings [a s e], their places, which are.

    Every audio has a place for each `stack_factor` of its frames.
    """
    frame = torch.arange(audio_values.shape[2], device=audio_values.device)
    valid = frame[None] < audio_lens[:, None].to(frame.device)
    frames, valid = encode(self.audio_tower, audio_values, valid)
    table = self.get_input_embeddings().weight.to(frames.device)
    embeddings, heard = self.multi_modal_projector(frames, valid, table)
    return embeddings, valid[:, :: self.config.stack_factor], heard

  def embed(
    self,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    audio_values: torch.Tensor,
    audio_lens: torch.Tensor,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """What the LLM reads [b t e], and which of it is anything [b t]."""
    embeddings, places, heard = self.hear(audio_values, audio_lens)
    spoken = input_ids == self.config.audio_token_index
    if (wanted := int(spoken.sum())) != (there := int(places.sum())):
      raise ValueError(f'input_ids have {wanted} places for audio, the audio {there}')
    text = self.get_input_embeddings()(input_ids.masked_fill(spoken, 0))
    x, mask = text.clone(), attention_mask.clone()
    x[spoken] = embeddings[places].to(x)
    mask[spoken] = heard[places].to(mask)
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
    """As of LlamaForCausalLM, with audio in it; of `labels` empty places do not count.

    audio_values: log-mel spectrograms [a m t] in the order of their places.
    audio_lens: frames of each. audio_token_len is not needed.
    """
    if audio_values is not None:
      if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
      heard = self.embed(input_ids, attention_mask, audio_values, audio_lens)
      kwargs['inputs_embeds'], attention_mask = heard
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
    """As Transformers has it: the prompts, then the answers.

    Inside, the LLM reads embeddings, so a streamer is given no prompt.
    """
    self.language_model.generation_config = self.generation_config
    if attention_mask is None:
      attention_mask = torch.ones_like(input_ids)
    if audio_values is None:
      return self.language_model.generate(
        input_ids, attention_mask=attention_mask, **kwargs
      )
    heard = self.embed(input_ids, attention_mask, audio_values, audio_lens)
    x, mask = pad_left(*heard)
    out = self.language_model.generate(inputs_embeds=x, attention_mask=mask, **kwargs)
    answers = out if isinstance(out, torch.Tensor) else out.sequences
    copies = len(answers) // len(input_ids)
    prompts = input_ids.repeat_interleave(copies, 0).to(answers.device)
    whole = torch.cat([prompts, answers], 1)
    if out is answers:
      return whole
    out.sequences = whole
    return out


def make_projector(config: AudioChatLlamaConfig) -> nn.Module:
  """The projector that a configuration describes."""
  sizes = config.stack_factor, config.audio_config.hidden_size
  outputs = config.text_config.hidden_size
  if config.ctc is not None:
    return CTCProjector(*sizes, outputs, config.ctc)
  if config.hidden_size is None:
    return LinearProjector(*sizes, outputs)
  return SwiGLUProjector(*sizes, config.hidden_size, outputs)


def load_llm(config: AudioChatLlamaConfig, how: dict[str, Any]) -> LlamaForCausalLM:
  """The LLM that a configuration names, once its files are known to be the same."""
  where, access = config.text_model_id, ('cache_dir', 'local_files_only', 'token')
  found = {key: how[key] for key in access if key in how}
  for name, expected in (config.text_model_sha256 or {}).items():
    local = Path(where) / name
    path = local if local.is_file() else cached_file(where, name, **found)
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
      while chunk := file.read(1 << 20):
        digest.update(chunk)
    if (sha256 := digest.hexdigest()) != expected:
      raise ValueError(
        f'{path}: sha256 is {sha256}; the model was trained with an LLM of {expected}'
      )
    if name.endswith('.gguf'):
      how = {**how, 'gguf_file': name}
  return LlamaForCausalLM.from_pretrained(where, **how)


def pad_left(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
  """Rows [b t e] with what is not there, by `mask`, all in front, and little of it."""
  order = mask.bool().int().argsort(dim=1, stable=True)
  width = int(mask.bool().sum(1).max())
  order = order[:, order.shape[1] - width :]
  return x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), mask.gather(1, order)
