# SPDX-License-Identifier: Apache-2.0
"""Foreign weight formats, one file and one name table each."""
