# SPDX-License-Identifier: Apache-2.0
from acl_jax.exporting.card import _format_report


def test_figures_in_noise_are_marked():
  report = {'examples': 3, 'response_nll': {'text': 0.5, 'audio': 0.75}}
  clean = _format_report(report | {'noise': None})
  assert '| audio | 0.750 |' in clean and 'dB' not in clean
  noise = {'kind': 'babble', 'snr': 10.0, 'talkers': 5}
  assert _format_report(report | {'noise': noise}).endswith('In babble at 10 dB.')
