# SPDX-License-Identifier: Apache-2.0
"""Every section of a config as a frozen, typed dataclass."""
