"""Triton kernels of the attention map. None has landed yet: `cdam_fast.portable` serves every device."""
