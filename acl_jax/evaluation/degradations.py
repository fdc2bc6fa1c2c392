# SPDX-License-Identifier: Apache-2.0
"""Ways in which audio is made worse, by the names that `Speech.degradation` may have."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

Waveform = Float32[np.ndarray, ' samples']

DEGRADATIONS: dict[str, Callable[[Waveform, np.random.Generator], Waveform]] = {}
