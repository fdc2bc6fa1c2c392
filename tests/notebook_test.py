# SPDX-License-Identifier: Apache-2.0
"""The notebook of the docs runs from top to bottom."""

import ast
import json
from pathlib import Path

import matplotlib
import pytest

pytestmark = pytest.mark.full

NOTEBOOK = Path(__file__).parent.parent / 'docs/first_steps.ipynb'


def test_first_steps(capsys):
  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  namespace, values = {}, []
  for cell in json.loads(NOTEBOOK.read_text())['cells']:
    if cell['cell_type'] == 'code':
      tree = ast.parse(''.join(cell['source']))
      last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
      exec(compile(tree, str(NOTEBOOK), 'exec'), namespace)
      if last is not None:  # a notebook shows it
        expression = compile(ast.Expression(last.value), str(NOTEBOOK), 'eval')
        values.append(eval(expression, namespace))
  plt.close('all')
  output = capsys.readouterr().out
  assert 'Paris' in values[0]
  assert 'hard transcript: Hello world' in output
  letters, tokens = namespace['letters'], namespace['tokens']
  assert -(-letters.shape[0] // 2) == tokens.shape[0] and letters.shape[1] == 29
