# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: CPU, no model hub, exact float32, parsed flags.

Compiled programs are cached in .pytest_cache, so the second run is faster.
"""

import gc
import os
from importlib import metadata
from pathlib import Path

# Modules and collected tests are never freed: searching them for garbage again and
# again takes a tenth of the time. See `pytest_collection_finish`.
gc.disable()

# Before the first import of jax and huggingface_hub, which read them once.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TRANSFORMERS_OFFLINE'] = '1'
# torch, the oracle: two tests run at once, and waiting threads spin.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Transformers copies the code of an exported folder here before importing it.
os.environ['HF_MODULES_CACHE'] = str(Path(__file__).parent.parent / '.pytest_cache/hf')
# Tests compile much and compute little. XLA's older code generator takes a third less
# time; later jaxlibs only have the newer one. `XLA_FLAGS= make test` compiles as users
# do.
QUICK = '--xla_backend_optimization_level=0'
if metadata.version('jaxlib').startswith('0.10.'):
  QUICK += ' --xla_cpu_use_fusion_emitters=false'
  QUICK += ' --xla_cpu_parallel_codegen_split_count=1'  # not for 32 threads
os.environ.setdefault('XLA_FLAGS', QUICK)
# Environment variables, so that they also apply to programs that tests start.
CACHE = Path(__file__).parent.parent / '.pytest_cache' / 'compiled'
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(CACHE)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

import signal  # noqa: E402
import subprocess  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from acl_jax.runtime import sigterm  # noqa: E402

jax.config.update('jax_default_matmul_precision', 'highest')
# For tests of sharding. Programs that tests start have one device.
jax.config.update('jax_num_cpu_devices', 8)
# Adding [b] to [t b] is an error, not a broadcast.
jax.config.update('jax_numpy_rank_promotion', 'raise')

flags.FLAGS.mark_as_parsed()

pytest_plugins = ('tests.tiny_world',)  # a fixture

# The same examples every time. No deadline, because the first one may compile.
hypothesis.settings.register_profile(
  'acl_jax', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('acl_jax')

# The longest files first: the last one decides when both workers are done.
FIRST = (
  'style_test.py',
  'shipped_model_test.py',
  'two_processes_test.py',
  'train_on_policy_test.py',
  'notebook_test.py',
  'shipped_test.py',
  'check_test.py',
  'kill_test.py',
)
FULL = 'tests marked `full` need real models, libtpu, or processes of their own'


def may_be_full(path):
  """Whether the text of a file marks tests as full, itself or by a parameter."""
  text = path.read_text()
  return 'mark.full' in text or 'SMOLLM2' in text


def pytest_collection_modifyitems(items):
  full = {item.path for item in items if item.get_closest_marker('full')}
  if hidden := [str(path) for path in full if not may_be_full(path)]:
    raise pytest.UsageError(f'the second stage would leave out tests of {hidden}')
  ranks = {name: rank for rank, name in enumerate(FIRST)}
  items.sort(key=lambda item: ranks.get(item.path.name, len(FIRST)))


def pytest_ignore_collect(collection_path, config):
  """Import only files that have a test of the second stage, in that stage."""
  if config.option.markexpr == 'full' and collection_path.name.endswith('_test.py'):
    return None if may_be_full(collection_path) else True
  return None


def pytest_collection_finish():
  gc.freeze()
  gc.enable()


def pytest_sessionfinish():
  gc.collect()
  gc.freeze()  # pytest collects five more times, for what is unraisable


MAPPINGS = Path('/proc/self/maps')
MAX_MAPPINGS = 40_000  # Linux allows a process 65,530; XLA crashes without more


@pytest.fixture(autouse=True, scope='module')
def few_mappings():
  """Free compiled programs before their mappings of memory become too many."""
  yield
  if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b'\n') > MAX_MAPPINGS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def handled_sigterm(monkeypatch):
  """SIGTERM to this process raises `Preempted`, as in a program."""
  for limit in ('UNWIND_SECONDS', 'REPEAT_SECONDS'):  # or this process would end
    monkeypatch.setattr(sigterm, limit, 600.0)
  before = signal.getsignal(signal.SIGTERM)
  sigterm.install()
  yield
  sigterm.uninstall()
  signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def stay_fast(request, monkeypatch):
  """Refuse what only the second stage may do: see `make test`."""
  if request.node.get_closest_marker('full'):
    yield
    return

  def refuse(*_, **__):
    raise AssertionError(FULL)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(subprocess.Popen, '__init__', refuse)
    patch.setattr(subprocess.Popen, '__del__', lambda self: None)
    patch.setattr('acl_jax.assets.fetch', refuse)
    patch.setattr('jax.experimental.topologies.get_topology_desc', refuse)
    yield
