# SPDX-License-Identifier: Apache-2.0
"""The tools of the clouds, as stubs."""

import pytest

from tests.launch.stub_tools import Tools


@pytest.fixture
def tools(tmp_path) -> Tools:
  return Tools(tmp_path / 'tools', 'gcloud', 'git', 'kubectl')
