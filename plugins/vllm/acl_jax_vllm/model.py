# SPDX-License-Identifier: Apache-2.0
"""The model that runs in vLLM's engine: an LLM of vLLM, which reads embeddings."""

from collections.abc import Iterable

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.model_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import (
  MultiModalEmbeddings,
  SupportsMultiModal,
  SupportsPP,
)
from vllm.model_executor.models.utils import (
  AutoWeightsLoader,
  init_vllm_registered_model,
  maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from acl_jax_vllm.hearing import OURS, PREFIX
from acl_jax_vllm.processing import AUDIO_TOKEN, DummyInputs, Info, Processor


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=DummyInputs)
class AudioChatLlama(nn.Module, SupportsMultiModal, SupportsPP):
  """The LLM of an exported folder; its audio comes as embeddings."""

  @classmethod
  def get_placeholder_str(cls, modality: str, i: int) -> str | None:
    if modality.startswith('audio'):
      return AUDIO_TOKEN
    raise ValueError(f'{modality}: this model reads text and audio only')

  def __init__(self, *, vllm_config: VllmConfig, prefix: str = ''):
    super().__init__()
    self.config = config = vllm_config.model_config.hf_config
    self.configure_mm_token_handling(
      config.text_config.vocab_size, [config.audio_token_index]
    )
    self.secondary_weights = []
    if config.text_model_id is not None:
      source = DefaultModelLoader.Source(
        model_or_path=config.text_model_id, revision=None, prefix=PREFIX
      )
      self.secondary_weights.append(source)
    with self._mark_language_model(vllm_config):
      self.language_model = init_vllm_registered_model(
        vllm_config=vllm_config,
        hf_config=config.text_config,
        prefix=maybe_prefix(prefix, 'language_model'),
      )
    self.make_empty_intermediate_tensors = (
      self.language_model.make_empty_intermediate_tensors
    )

  def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
    """Return the embeddings of every clip [n e], which came with the request."""
    embeds = kwargs.get('audio_embeds')
    return [] if embeds is None else list(embeds)

  def forward(
    self,
    input_ids: torch.Tensor | None,
    positions: torch.Tensor,
    intermediate_tensors: IntermediateTensors | None = None,
    inputs_embeds: torch.Tensor | None = None,
    **kwargs: object,
  ) -> torch.Tensor | IntermediateTensors:
    if intermediate_tensors is not None:
      inputs_embeds = None
    return self.language_model.model(
      input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
    )

  def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
    return self.language_model.compute_logits(hidden_states)

  def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
    """Load the LLM; encoder and projector are in `hearing.Hearing`."""
    of_llm = ((name, x) for name, x in weights if not name.startswith(OURS))
    return AutoWeightsLoader(self).load_weights(of_llm)
