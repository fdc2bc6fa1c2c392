# SPDX-License-Identifier: Apache-2.0
import dataclasses
import datetime

from acl_jax.text import frontend
from acl_jax.weights.llama import open_llama
from benchmarks import export


def test_the_written_llm_is_one_that_we_read(tmp_path):
  config = dataclasses.replace(
    export.llama_config(2),
    vocab_size=288,
    hidden_size=24,
    intermediate_size=40,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=6,
  )
  export.write_llama(tmp_path / 'llama', config)
  assert open_llama(tmp_path / 'llama').config == config
  today = datetime.date(2026, 7, 2)
  text = frontend.load_text_frontend(tmp_path / 'llama', 'chatml', today)
  assert text.tokenizer.decode(text.tokenizer.encode('abc')) == 'abc'
