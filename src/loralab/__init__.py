"""loralab: LoRA adapters for Stable Diffusion, as experiments."""

__version__ = "0.1.0"
