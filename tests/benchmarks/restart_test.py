# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import pytest

from benchmarks import restart


def test_only_complete_lines_are_starts(tmp_path):
  assert restart.starts(tmp_path) == []
  line = {'stage': 'ctc', 'step': 6, 'total': 2.5}
  path = tmp_path / restart.FILE
  path.write_text(json.dumps(line) + '\n' + json.dumps(line)[:9])
  assert restart.starts(tmp_path) == [line]


@pytest.mark.full
def test_a_run_that_ends_is_quoted(tmp_path):
  log = tmp_path / 'log'
  log.write_text('no such config')
  process = subprocess.Popen([sys.executable, '-c', ''])
  with pytest.raises(RuntimeError, match='no such config'):
    restart.wait_for(lambda: None, process, log)
  with pytest.raises(RuntimeError, match='process 7 is not running'):
    restart.find_process(os.getpid(), 7)
