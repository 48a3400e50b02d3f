"""sharpbench: sharpness measurement and benchmarking for PyTorch."""

__version__ = "0.1.0"
