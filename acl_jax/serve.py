# SPDX-License-Identifier: Apache-2.0
"""Program: a speech chat server with the API of OpenAI, and a page to talk to.

  python -m acl_jax.serve --config=configs/smol.py
  ACL_JAX_API_KEY=secret python -m acl_jax.serve --config=configs/smol.py --host=0.0.0.0

It answers once /ready does. SIGTERM: replies in progress have `serve.grace_seconds` to
end, and new requests are refused. See docs/serving.md.
"""

import os
import sys
from collections.abc import Sequence

from absl import flags

from acl_jax import assets
from acl_jax.assistant import load
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.runtime import compilation_cache, config_flag, program

KEY_VARIABLE = 'ACL_JAX_API_KEY'


def main(argv: Sequence[str]) -> None:
  """Load the model and serve it until a signal."""
  del argv
  # Fail before the model is loaded: the extra, the origins, the port.
  try:
    from acl_jax.serving import server
  except ImportError as error:
    raise ValueError(
      f"serve needs {error.name}: pip install 'acl_jax[serve]'"
    ) from None
  values = flags.FLAGS
  origins = [server.parse_origin(origin) for origin in values.allow_origin]
  config = parse_train(values.config)
  socket = server.bind(values.host, values.port)
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  print('loading the model', file=sys.stderr, flush=True)
  assistant = load(config, values.checkpoint)
  name = config_flag.path().stem
  service = server.make_service(name, assistant, config.serve)
  key = os.environ.get(KEY_VARIABLE, '')
  server.serve(service, socket, key, origins)


if __name__ == '__main__':
  config_flag.define(TrainConfig)
  flags.DEFINE_string(
    'checkpoint',
    None,
    'a workdir, an adapter file or an exported folder; default: the shipped adapter',
  )
  flags.DEFINE_string('host', '127.0.0.1', 'address to listen at')
  flags.DEFINE_integer('port', 8000, 'to listen at; 0: any free one', 0, 65535)
  flags.DEFINE_multi_string(
    'allow_origin',
    [],
    'a site whose pages may use the server, besides this machine: https://example.org',
  )
  flags.mark_flag_as_required('config')
  program.run(main)
