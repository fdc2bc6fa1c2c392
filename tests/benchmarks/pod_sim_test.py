# SPDX-License-Identifier: Apache-2.0
import pytest

from benchmarks import pod_sim
from benchmarks.pod_world import start_host, write_world

ROWS, FRAMES = 48, 512


@pytest.mark.parametrize('kind', ['librispeech', 'mls'])
def test_a_pod_over_a_small_index(tmp_path, monkeypatch, kind):
  write_world(tmp_path, 1_900, kind)
  started = []

  def start(folder, step):
    """Start a host in this process."""
    host = start_host(folder, ROWS, FRAMES)
    steps = range(step, step + pod_sim.COMPARED)
    rows = pod_sim.digest(host.order, steps, pod_sim.LOST, 16)
    started.append(host)
    return {
      'stages': host.stages,
      'gigabytes': 0.5,
      'cpu_seconds': 1.0,
      'seconds': 2.0,
      'rows': rows,
    }

  monkeypatch.setattr(pod_sim, 'HOSTS', (1, 16, 48))
  monkeypatch.setattr(pod_sim, 'measure_host', start)
  monkeypatch.setattr(pod_sim, 'start_host', lambda *_: started[-1])
  figures = pod_sim.simulate(tmp_path, checkpoint=4)
  assert figures['identical'] and figures['steps_per_epoch'] > 5
  assert 0 < figures['padding_waste'] < 0.1
  assert figures['hosts']['1']['balance'] == 1 < figures['hosts']['48']['balance'] < 1.5
  total, share = (figures['hosts'][n]['megabytes_per_step'] for n in ('1', '16'))
  assert total == pytest.approx(16 * share, rel=0.01)


def test_a_batch_that_lacks_an_utterance_is_noticed(tmp_path, monkeypatch):
  write_world(tmp_path, 300, 'mls')
  host = start_host(tmp_path, 8, FRAMES)
  assert pod_sim.share_batches(host, 4, range(3))['identical']
  broken = host._replace(order=[host.order[i] for i in range(3)])
  plan = broken.order[1]
  part = plan.take_parts([1], 4)
  monkeypatch.setattr(
    type(plan), 'take_parts', lambda self, parts, total: part if parts == [1] else self
  )
  assert not pod_sim.share_batches(broken, 4, range(3))['identical']
