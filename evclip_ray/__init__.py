"""evclip-ray: find the EV-CLIP prompts that work best on your own videos."""

__version__ = "0.1.0"
