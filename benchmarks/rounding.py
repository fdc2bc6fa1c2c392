# SPDX-License-Identifier: Apache-2.0
"""How far apart the logits of SmolLM2-135M are where only float32's rounding differs.

  .venv/bin/python benchmarks/rounding.py

Transformers' `LlamaForCausalLM` with each of two attentions, and ours, read the shipped
recordings' transcripts as prompts. The truth is Transformers in float64. The numbers
are the largest differences of any logit of any token. The last line is JSON.
"""

import json
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
from acl_jax.evaluation import examples
from acl_jax.exporting.check import SHIPPED
from acl_jax.models.llama import Llama
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.text.layout import layout_prompt
from acl_jax.weights.llama import save_llama_hf
from configs import smol

_PROMPTS = flags.DEFINE_integer('prompts', 50, 'transcripts', lower_bound=1)

TRUTH = 'float64'
THEIRS = {
  TRUTH: (torch.float64, 'eager'),
  'torch': (torch.float32, 'sdpa'),  # what Transformers takes unless told otherwise
  'torch_eager': (torch.float32, 'eager'),
}
PAIRS = (
  *(('torch', TRUTH), ('torch_eager', TRUTH), ('ours', TRUTH)),
  *(('torch', 'torch_eager'), ('ours', 'torch'), ('ours', 'torch_eager')),
)


@jax.jit
def ours(model: Llama, tokens: Int[Array, '1 t']) -> Float[Array, '1 t v']:
  """Our logits."""
  hidden, _ = model(model.embed(tokens), *causal_segment_mask(jnp.ones_like(tokens)))
  return model.logits(hidden)


@torch.no_grad()
def theirs(
  folder: str, name: str, prompts: Sequence[list[int]]
) -> Iterator[Float[np.ndarray, 't v']]:
  """Transformers' logits of each prompt."""
  dtype, attention = THEIRS[name]
  model = LlamaForCausalLM.from_pretrained(
    folder, dtype=dtype, attn_implementation=attention
  ).eval()
  for tokens in prompts:
    yield model(torch.tensor([tokens])).logits[0].numpy()


def main(argv: list[str]) -> None:
  """Prints the largest differences."""
  del argv
  transformers_logging.disable_progress_bar()
  config = smol.get_config()
  text, model = build.load_text_frontend(config), build.load_frozen_llama(config)
  utterances, _ = examples.read_manifest(SHIPPED, _PROMPTS.value)
  prompts = [layout_prompt(text.prompt(u.text), []).tokens for u in utterances]
  with tempfile.TemporaryDirectory() as folder:
    save_llama_hf(model, folder)
    logits = {name: theirs(folder, name, prompts) for name in THEIRS}
    logits['ours'] = (
      np.asarray(ours(model, jnp.asarray([tokens])))[0] for tokens in prompts
    )
    largest = dict.fromkeys(PAIRS, 0.0)
    for found in zip(*logits.values(), strict=True):
      of = dict(zip(logits, found, strict=True))
      for a, b in PAIRS:
        largest[a, b] = max(largest[a, b], float(np.abs(of[a] - of[b]).max()))
  result = {f'{a}_vs_{b}': float(f'{value:.3g}') for (a, b), value in largest.items()}
  print(json.dumps(result | {'prompts': len(prompts)}))


if __name__ == '__main__':
  app.run(main)
