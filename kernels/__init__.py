"""Triton kernels of CDAM's attention map; imports nothing but Triton and PyTorch.

The stages in the order of the data: `distributions`, `divergence`, `attention`; `plan` says where everything lies,
`launch` runs them.
"""
