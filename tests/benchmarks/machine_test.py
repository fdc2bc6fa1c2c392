# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path

from benchmarks import machine

BENCHMARKS = Path(machine.__file__).parent
CPUINFO = """processor : 0
model name\t: Xeon of the house @ 2.10GHz
flags\t\t: fpu avx2 amx_bf16 amx_tile
"""


def test_a_result_names_the_machine(capsys, tmp_path):
  machine.print_result({'ratio': 0.85})
  result = json.loads(capsys.readouterr().out)
  assert result['ratio'] == 0.85 and result['machine']['cpu']
  assert result['machine']['cores'] >= 1 and not result['machine']['accelerators']
  assert {'python', 'jax', 'jaxlib', 'numpy'} <= result['machine']['versions'].keys()
  (tmp_path / 'cpuinfo').write_text(CPUINFO)
  described = machine.describe_machine(tmp_path / 'cpuinfo')
  assert described['cpu'] == 'Xeon of the house @ 2.10GHz'
  assert described['instructions'] == ['avx2', 'amx_bf16']
  assert machine.describe_machine(tmp_path / 'none')['cpu']


def test_every_benchmark_prints_it():
  """All but the table of runs that were made elsewhere, and the parts of others."""
  for path in BENCHMARKS.glob('*.py'):
    source = path.read_text()
    if re.search(r'^  app\.run\(main\)', source, re.M) and path.stem != 'serve_rivals':
      assert 'print_result(' in source, path.name
