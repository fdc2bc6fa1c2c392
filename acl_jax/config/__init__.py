# SPDX-License-Identifier: Apache-2.0
"""Configs: every section as a frozen, typed dataclass, and the base of config files.

Programs parse their `ml_collections.ConfigDict` once, in `main`; no other code uses it.
"""
