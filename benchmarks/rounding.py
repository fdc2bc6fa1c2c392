# SPDX-License-Identifier: Apache-2.0
"""Measure how much float32 rounding alone changes the logits of SmolLM2-135M.

  .venv/bin/python benchmarks/rounding.py

Our Llama and Transformers' `LlamaForCausalLM`, with each of two attentions, process the
transcripts of the shipped recordings as prompts. The reference is Transformers in
float64. The figures are the largest difference of any logit of any token. The last line
is JSON.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags
from jaxtyping import Array, Float, Int
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax import build
from acl_jax.config.experiment import parse_train
from acl_jax.evaluation import examples
from acl_jax.exporting.check import SHIPPED_MANIFEST
from acl_jax.models.llama import Llama
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.text.layout import layout_prompt
from acl_jax.weights.llama import save_llama
from benchmarks.machine import print_result
from configs import smol

_PROMPTS = flags.DEFINE_integer('prompts', 50, 'number of prompts', lower_bound=1)

REFERENCE = 'float64'
TORCH_VARIANTS = {
  REFERENCE: (torch.float64, 'eager'),
  'torch': (torch.float32, 'sdpa'),  # the default of Transformers
  'torch_eager': (torch.float32, 'eager'),
}
PAIRS = (
  ('torch', REFERENCE),
  ('torch_eager', REFERENCE),
  ('ours', REFERENCE),
  ('torch', 'torch_eager'),
  ('ours', 'torch'),
  ('ours', 'torch_eager'),
)


@jax.jit
def our_logits(model: Llama, tokens: Int[Array, '1 t']) -> Float[Array, '1 t v']:
  """Return our logits of a prompt."""
  hidden, _ = model(model.embed(tokens), *causal_segment_mask(jnp.ones_like(tokens)))
  return model.logits(hidden)


@torch.no_grad()
def torch_logits(
  folder: str, variant: str, prompts: Sequence[list[int]]
) -> Iterator[Float[np.ndarray, 't v']]:
  """Yield Transformers' logits of each prompt."""
  dtype, attention = TORCH_VARIANTS[variant]
  model = LlamaForCausalLM.from_pretrained(
    folder, dtype=dtype, attn_implementation=attention
  ).eval()
  for tokens in prompts:
    yield model(torch.tensor([tokens])).logits[0].numpy()


def main(argv: list[str]) -> None:
  """Print the largest differences."""
  del argv
  transformers_logging.disable_progress_bar()
  config = parse_train(smol.get_config())
  text = build.load_text_frontend(config.llama, config.template)
  model = build.load_frozen_llama(config.llama)
  utterances, _ = examples.read_manifest(SHIPPED_MANIFEST, _PROMPTS.value)
  prompts = [layout_prompt(text.prompt(u.text), []).tokens for u in utterances]
  with tempfile.TemporaryDirectory() as folder:
    save_llama(model, folder)
    logits = {name: torch_logits(folder, name, prompts) for name in TORCH_VARIANTS}
    logits['ours'] = (
      np.asarray(our_logits(model, jnp.asarray([tokens])))[0] for tokens in prompts
    )
    largest = dict.fromkeys(PAIRS, 0.0)
    for arrays in zip(*logits.values(), strict=True):
      by_name = dict(zip(logits, arrays, strict=True))
      for a, b in PAIRS:
        difference = float(np.abs(by_name[a] - by_name[b]).max())
        largest[a, b] = max(largest[a, b], difference)
  result = {f'{a}_vs_{b}': float(f'{value:.3g}') for (a, b), value in largest.items()}
  print_result(result | {'prompts': len(prompts)})


if __name__ == '__main__':
  app.run(main)
