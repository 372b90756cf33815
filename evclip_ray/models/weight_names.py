"""Names of weights that are no tag of a library, as `backbone.pretrained` gives them. Imports no PyTorch."""

RANDOM = "random"
"""Name of untrained weights. They are used only when requested by this name."""

WORLD = "world"
"""Name of the weights of the small pretrained world."""
