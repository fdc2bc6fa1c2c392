# SPDX-License-Identifier: Apache-2.0
"""A plug-in of vLLM for the folders that `acl_jax.export --format=transformers` writes.

vLLM calls `register` in each of its processes, since this package has an entry point in
the group `vllm.general_plugins`.
"""

import logging

ARCHITECTURE = 'AudioChatLlamaModel'
TESTED_VERSION = '0.32.0'  # of vLLM, whose internals change


def register() -> None:
  """Make the architecture of exported folders known to vLLM."""
  import vllm
  from vllm import ModelRegistry

  if vllm.__version__.split('+')[0] != TESTED_VERSION:
    logging.getLogger('vllm.acl_jax').warning(
      'acl_jax_vllm was tested with vLLM %s; this is %s',
      TESTED_VERSION,
      vllm.__version__,
    )
  if ARCHITECTURE not in ModelRegistry.get_supported_archs():
    ModelRegistry.register_model(ARCHITECTURE, 'acl_jax_vllm.model:AudioChatLlama')
