# SPDX-License-Identifier: Apache-2.0
"""`--check`, and the shipped adapter on real speech."""

from acl_jax.export import Options, export
from acl_jax.exporting import check
from configs import smol


def test_the_shipped_adapter_says_the_same_in_torch(tmp_path, capsys):
  config = smol.get_config()
  export(config, tmp_path / 'smol_export', None, Options(llm='include'))
  recordings = check.SHIPPED.parent / 'audio'
  names = [str(recordings / f'{name}.ogg') for name in ('hello-world', 'goodbye')]
  found = check.check(config, tmp_path / 'smol_export', None, names)
  for difference in found:
    assert difference.same_answer and difference.agreement == 1
    assert difference.log_mel < 1e-4
    assert difference.embeddings < 1e-5
    assert difference.kl < 1e-8
  assert 'same greedy answers                        2 of 2' in capsys.readouterr().out


def test_another_model_is_seen(letters, tiny_world, tmp_path):
  from tests.exporting.conftest import make

  other = make(tiny_world, tmp_path, 'letterless')
  sound = str(tiny_world / 'corpus/3.flac')
  same = check.check(letters.config, letters.folder, str(letters.workdir), [sound])
  assert same[0].logits < 1e-4 and same[0].embeddings < 1e-5
  found = check.check(letters.config, other.folder, str(letters.workdir), [sound])
  assert found[0].embeddings > 0.01
