# SPDX-License-Identifier: Apache-2.0
"""One experiment per file."""
