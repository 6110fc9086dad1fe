"""Fused kernels in Triton for the slot engine on CUDA, their checks, and the layers that call them."""
