"""Both cues by Triton kernels. Modules here import triton: they are imported only to launch."""
