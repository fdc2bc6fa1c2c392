# SPDX-License-Identifier: Apache-2.0
"""What a program would need and do on TPUs that nobody has rented yet."""
