# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 from its GGUF file, compared with the same file loaded by Transformers."""

import functools

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from acl_jax import assets
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.llama import load_llama

pytestmark = pytest.mark.full

PROMPTS = (
  'What is the capital of France?',
  'Write one sentence about the sea.',
  'How many days are there in a week?',
  'Name three colours.',
  'Who wrote Romeo and Juliet?',
  'Water boils at',
  'def add(a, b):',
  '3 + 4 =',
  'Once upon a time',
  'The opposite of hot is',
)
NUM_NEW_TOKENS = 12


@pytest.fixture(scope='module')
def path():
  return assets.resolve('asset:smollm2-135m-instruct')


@pytest.fixture
def reference(path, monkeypatch):
  """The model of Transformers, without its repeated work on the header of the file."""
  # The reader slices the file a million times; slices of a plain array are faster.
  with monkeypatch.context() as context:
    memmap = np.memmap
    to_array = lambda *args, **kwargs: np.asarray(memmap(*args, **kwargs))  # noqa: E731
    context.setattr(np, 'memmap', to_array)
    reader = gguf.GGUFReader(path)
  for name in [name for name in reader.fields if name.startswith('tokenizer.')]:
    del reader.fields[name]
  # Transformers would read the file twice.
  monkeypatch.setattr(gguf, 'GGUFReader', lambda path: reader)
  # Transformers builds the same map once per module.
  get_map = functools.cache(gguf.get_tensor_name_map)
  monkeypatch.setattr(gguf, 'get_tensor_name_map', get_map)
  return transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype=torch.float32
  )


@jax.jit
def greedy(model, tokens, token_mask):
  """Decode NUM_NEW_TOKENS after right-padded prompts [b t], with a cache."""
  b, t = tokens.shape
  lengths = token_mask.sum(1)
  seen = jnp.pad(token_mask, ((0, 0), (0, NUM_NEW_TOKENS)))
  cache = model.empty_cache(b, t + NUM_NEW_TOKENS, jnp.float32)
  mask = jnp.tril(jnp.ones((t, t + NUM_NEW_TOKENS), bool))[None] & seen[:, None]
  positions = jnp.tile(jnp.arange(t)[None], (b, 1))
  x, cache = model(model.embed(tokens), positions, mask, cache, jnp.zeros(b, int))
  token = model.logits(x[jnp.arange(b), lengths - 1][:, None]).argmax(-1)

  def step(carry, i):
    token, seen, cache = carry
    seen = seen.at[:, t + i].set(True)
    position = (lengths + i)[:, None]
    index = jnp.full(b, t + i)
    x, cache = model(model.embed(token), position, seen[:, None], cache, index)
    return (model.logits(x).argmax(-1), seen, cache), token

  _, new = jax.lax.scan(step, (token, seen, cache), jnp.arange(NUM_NEW_TOKENS))
  return new[..., 0].T


@jax.jit
def forward(model, tokens):
  b, t = tokens.shape
  mask = jnp.tile(jnp.tril(jnp.ones((1, t, t), bool)), (b, 1, 1))
  x, _ = model(model.embed(tokens), jnp.tile(jnp.arange(t)[None], (b, 1)), mask)
  return model.logits(x)


def test_logits_and_greedy_tokens_equal_transformers(path, reference):
  tokenizer, model = load_tokenizer(path), load_llama(path)
  prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
  longest = max(map(len, prompts))
  tokens = np.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
  lengths = np.array([len(prompt) for prompt in prompts])
  token_mask = np.arange(longest) < lengths[:, None]
  new = np.asarray(greedy(model, tokens, token_mask))

  # One pass of the reference over prompts and answers checks that each token of an
  # answer is the greedy one, given those before it.
  rows = [prompt + answer.tolist() for prompt, answer in zip(prompts, new, strict=True)]
  total = longest + NUM_NEW_TOKENS
  tokens = np.array([row + [0] * (total - len(row)) for row in rows])
  with torch.no_grad():
    expected_logits = reference(torch.tensor(tokens)).logits.numpy()
  logits = np.asarray(forward(model, tokens))
  assert reference.config.rope_parameters['rope_theta'] == model.config.rope_theta
  for i, answer in enumerate(new):
    start, stop = lengths[i], lengths[i] + NUM_NEW_TOKENS
    actual, expected = logits[i, :stop], expected_logits[i, :stop]
    # Logits reach 38. The float32 logits of Transformers are within 6e-5 of float64,
    # ours within 2e-4; they differ by 1e-4, for one of the ten prompts by 3e-4.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-4)
    np.testing.assert_array_equal(answer, expected[start - 1 : -1].argmax(-1))
  answer = tokenizer.decode(new[0].tolist())
  assert 'Paris' in answer, answer
