"""What depends on the hardware: device and precision, attention functions, weight layouts, measured peaks.

Kernels know nothing of batches, tokenizers or model folders.
"""
