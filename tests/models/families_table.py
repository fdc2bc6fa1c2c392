# SPDX-License-Identifier: Apache-2.0
"""The table of families in docs/models.md: each cell is a check that passed.

`COLUMNS` has a check for each column: a function of a family's name and an empty
folder, which raises unless the family is supported in that way. A test runs all of
them. `python -m tests.models.families_table` runs them, too, and writes the table.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from acl_jax.models import llama
from acl_jax.models.window import last_keys
from acl_jax.weights.llama import load_llama, save_llama
from tests import tiny_llama
from tests.models import families
from tests.models.families import FAMILIES
from tests.text import chat_templates
from tests.text.conftest import write_llama_json, write_llama_model
from tests.weights.gguf_families import check_gguf

# Templates of families that have not one of their own name.
TEMPLATES = {
  'llama2': ['llama2', 'tinyllama'],
  'llama3.1': ['llama3.2'],
  'qwen2-window': ['qwen2'],
}
Check = Callable[[str, Path], None]
DOCS = Path(__file__).parents[2] / 'docs/models.md'
START, END = '<!-- families -->', '<!-- end of families -->'


def check_parity(name: str, folder: Path) -> None:
  """Compare every layer and the logits with those of Transformers."""
  reference = families.build(name)
  reference.save_pretrained(folder)
  model, tokens = load_llama(folder), families.tokens(name)
  c, (b, t) = model.config, tokens.shape
  mask = tiny_llama.causal(b, t)
  masks = [mask] * c.num_hidden_layers
  if c.sliding_window is not None:
    window = last_keys(mask, c.sliding_window)
    masks = [
      mask if i in c.full_attention_layers else window for i in range(len(masks))
    ]
  x = jax.random.normal(jax.random.key(0), (b, t, c.hidden_size))
  logits, layers = _outputs(model, tokens, x, jnp.stack(masks))
  expected = families.reference_logits(name, tokens)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  for actual, layer, mask in zip(layers, reference.model.layers, masks, strict=True):
    expected = _reference_layer(reference, layer, x, mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@jax.jit
def _outputs(model: llama.Llama, tokens, x, masks):
  """Return the logits of tokens, and the outputs of each layer for x."""
  positions = jnp.tile(jnp.arange(x.shape[1])[None], (len(x), 1))
  run_layer = lambda block, mask, i: block(x, positions, mask, layer=i)[0]  # noqa: E731
  layers = jax.vmap(run_layer)(model.layers, masks, jnp.arange(len(masks)))
  return tiny_llama.logits(model, tokens), layers


def _reference_layer(reference, layer, x, mask) -> np.ndarray:
  y, mask = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(mask))
  embeddings = reference.model.rotary_emb(y, torch.arange(y.shape[1])[None])
  with torch.no_grad():
    mask = torch.where(mask[:, None], 0.0, torch.finfo(torch.float32).min)
    return layer(y, attention_mask=mask, position_embeddings=embeddings).numpy()


def check_round_trip(name: str, folder: Path) -> None:
  """Write a model and read it here, to the bit, and by its class in Transformers."""
  reference, tokens = families.build(name), families.tokens(name)
  reference.save_pretrained(folder / 'original')
  model = load_llama(folder / 'original')
  save_llama(model, folder / 'written')
  tiny_llama.assert_equal(load_llama(folder / 'written'), model)
  written = transformers.AutoModelForCausalLM.from_pretrained(folder / 'written')
  assert type(written) is type(reference)
  with torch.no_grad():
    actual = written.eval()(torch.tensor(tokens)).logits
  expected = families.reference_logits(name, tokens)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def check_template(name: str, folder: Path) -> None:
  """Compare conversations by the model's own chat template with Transformers."""
  for each in TEMPLATES.get(name, [name]):
    (folder / each / 'pieces').mkdir(parents=True)
    pieces = write_llama_json(
      folder / each / 'pieces', write_llama_model(folder / each / 'pieces')
    )
    family = chat_templates.FAMILIES[each]
    with chat_templates.told_the_date():
      world = chat_templates.load_world(folder / each, family, pieces)
      chat_templates.check_conversations(world, chat_templates.SYSTEMS)


COLUMNS: Mapping[str, Check] = {
  'equals Transformers': check_parity,
  'chat template': check_template,
  'written back': check_round_trip,
  'GGUF': check_gguf,
}
# Cells that no check can fill, with the reason.
WITHOUT = {('qwen2-window', 'GGUF'): 'not in llama.cpp'}


def render(cells: Mapping[tuple[str, str], str]) -> str:
  """Return the table in Markdown; cells by family and column."""
  lines = [
    '| models | `model_type` | ' + ' | '.join(COLUMNS) + ' |',
    '|---' * (2 + len(COLUMNS)) + '|',
  ]
  for name, family in FAMILIES.items():
    row = [family.published, f'`{family.model_type}`']
    row += [cells[name, column] for column in COLUMNS]
    lines.append('| ' + ' | '.join(row) + ' |')
  return '\n'.join(lines)


def run_checks() -> dict[tuple[str, str], str]:
  """Run every check; returns the cells of the table."""
  cells = {}
  for name in FAMILIES:
    for column, check in COLUMNS.items():
      if (name, column) in WITHOUT:
        cells[name, column] = WITHOUT[name, column]
        continue
      with tempfile.TemporaryDirectory() as folder:
        try:
          check(name, Path(folder))
          cells[name, column] = 'yes'
        except Exception as error:  # noqa: BLE001 a cell says what failed
          cells[name, column] = f'no: {error!r:.60}'
  return cells


def main() -> None:
  """Write the table between its two marks."""
  jax.config.update('jax_default_matmul_precision', 'highest')
  text = DOCS.read_text()
  before, _, rest = text.partition(START)
  _, _, after = rest.partition(END)
  DOCS.write_text(f'{before}{START}\n{render(run_checks())}\n{END}{after}')


if __name__ == '__main__':
  main()
