# SPDX-License-Identifier: Apache-2.0
"""What every test relies on: the CPU, no hub, exact float32, flags that can be read.

What XLA has compiled is kept in .pytest_cache, so the second run is quick.
"""

import os
from importlib import metadata
from pathlib import Path

# Before the first import of jax and of huggingface_hub, which read them once.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TRANSFORMERS_OFFLINE'] = '1'
# Where Transformers copies the code of an exported folder before it imports it.
os.environ['HF_MODULES_CACHE'] = str(Path(__file__).parent.parent / '.pytest_cache/hf')
# Tests compile much and compute little. XLA's older code generator takes a third less;
# later jaxlibs have only the newer one. `XLA_FLAGS= make test` compiles as users do.
QUICK = '--xla_backend_optimization_level=0'
if metadata.version('jaxlib').startswith('0.10.'):
  QUICK += ' --xla_cpu_use_fusion_emitters=false'
os.environ.setdefault('XLA_FLAGS', QUICK)
# In the environment, so that the programs that tests start have it too.
CACHE = Path(__file__).parent.parent / '.pytest_cache' / 'compiled'
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(CACHE)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

import hypothesis  # noqa: E402
import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update('jax_default_matmul_precision', 'highest')
# A [b] added to a [t b] is a mistake, not a broadcast.
jax.config.update('jax_numpy_rank_promotion', 'raise')

flags.FLAGS.mark_as_parsed()

pytest_plugins = ('tests.tiny_world',)  # the fixture of that name

# The same examples every time; the first of them may have to wait for a compilation.
hypothesis.settings.register_profile(
  'acl_jax', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('acl_jax')

# What fails within seconds comes first; a folder that is not named comes last.
FIRST = ('style_test.py', 'program_test.py', 'assets_test.py', 'data_pipeline', 'text')
FIRST += ('weights', 'models', 'decoding', 'training')


def pytest_collection_modifyitems(items):
  here = Path(__file__).parent
  names = [item.path.relative_to(here).parts[0] for item in items]
  ranks = [FIRST.index(name) if name in FIRST else len(FIRST) for name in names]
  items[:] = [items[i] for i in sorted(range(len(items)), key=ranks.__getitem__)]
