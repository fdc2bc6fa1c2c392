# SPDX-License-Identifier: Apache-2.0
"""A chat model that answers speech as it answers text."""

import time

STARTED = time.monotonic()  # before all other imports

__version__ = '0.1.0'
