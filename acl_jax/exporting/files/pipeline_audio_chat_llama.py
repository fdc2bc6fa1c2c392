# SPDX-License-Identifier: Apache-2.0
"""`transformers.pipeline` for AudioChatLlama."""

from typing import Any

from transformers import Pipeline

from .processing_audio_chat_llama import AudioChatLlamaProcessor


class AudioChatLlamaPipeline(Pipeline):
  """{'turns': [...], 'audio': samples, 'sampling_rate': 16000} -> response text.

  A turn is {'role': 'user', 'content': 'text with <|audio|>'}; without turns the audio
  is the whole user turn. `audio` may be a list of clips. Other arguments go to
  `generate`.
  """

  _load_processor = False  # Transformers cannot load a custom class here; see __init__
  _load_tokenizer = True
  _load_feature_extractor = False
  _load_image_processor = False

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.processor = AudioChatLlamaProcessor.from_pretrained(
      self.model.name_or_path,
      trust_remote_code=True,  # the user trusts this class already
    )

  def _sanitize_parameters(self, **generate):
    return {}, generate, {}

  def preprocess(self, input_: dict[str, Any], **_):
    audio = input_.get('audio')
    turns = input_.get('turns') or [{'role': 'user', 'content': '<|audio|>'}]
    text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
    sampling_rate = input_.get('sampling_rate', 16_000)
    return self.processor(text, audio=audio, sampling_rate=sampling_rate)

  def _forward(self, input_tensors, **generate):
    start = input_tensors['input_ids'].shape[1]
    generated = self.model.generate(**input_tensors, **generate)
    return {'response': generated[:, start:]}

  def postprocess(self, model_outputs, **_) -> str:
    response = model_outputs['response'][0]
    return self.processor.decode(response, skip_special_tokens=True).strip()
