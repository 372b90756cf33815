"""Sizes of the video encoders, and how a network of one is built. Settings are read without PyTorch."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from evclip_ray.config import ConfigError, nearest
from evclip_ray.models.weight_names import WORLD

if TYPE_CHECKING:
    from torchvision.models.video import SwinTransformer3d

_PATCH = (2, 4, 4)
_WINDOW = (8, 7, 7)


@dataclasses.dataclass(frozen=True)
class Swin3D:
    """Sizes of a 3D Swin transformer.

    Attributes:
        embed_dim: Channels after the patch embedding.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        image_size: Side of the input in pixels.
        window: Attention window in frame pairs x patches x patches. With 96 pixels, windows of 6 patches are
            twice as fast as 7, because they divide the map.
        reads_differences: Whether a patch is the difference of the two frames of a pair, without
            normalisation. Random weights then still respond to motion; a trained network learns such
            filters.
        tags: torchvision's name of the weights, by our name; empty for the weights of the small world.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    image_size: int = 224
    window: tuple[int, int, int] = _WINDOW
    reads_differences: bool = False
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Number of channels D_z of the last map."""
        return self.embed_dim << (len(self.depths) - 1)

    @property
    def stride(self) -> int:
        """Side in pixels of a position of the last map: a patch, doubled after each stage but the last.

        >>> VIDEO_ENCODERS["swin3d_t"].stride, VIDEO_ENCODERS["swin3d_world"].stride
        (32, 16)
        """
        return _PATCH[1] << (len(self.depths) - 1)

    def build(self, window: tuple[int, int, int] | None = None) -> "SwinTransformer3d":
        """Build the network without its classifier.

        Args:
            window: Attention window in frame pairs x patches x patches; None uses the row's.
        """
        # Imported here: the sizes are read without PyTorch.
        from torchvision.models.video import SwinTransformer3d

        network = SwinTransformer3d(
            list(_PATCH),
            self.embed_dim,
            list(self.depths),
            list(self.num_heads),
            list(window or self.window),
            # A frozen network drops no paths. The rate has no parameters, so weights load all the same.
            stochastic_depth_prob=0.0,
        )
        # Only the last map is read. Without the classifier, `state_dict` has the names of a trunk.
        del network.head, network.avgpool
        if self.reads_differences:
            _read_differences(network)
        return network


_K400 = {"kinetics400": "KINETICS400_V1"}

# Three stages: the map of 96 pixels has 6 x 6 positions. With a fourth stage it has 3 x 3, and even the true
# shares of so few cells, enlarged, have an average precision of 0.30 in clutter (6 x 6: 0.73).
_WORLD_ROW = Swin3D(24, (1, 1, 4), (1, 2, 4), image_size=96, window=(4, 6, 6), tags={WORLD: ""})

VIDEO_ENCODERS: dict[str, Swin3D] = {
    "swin3d_t": Swin3D(96, (2, 2, 6, 2), (3, 6, 12, 24), tags=_K400),
    "swin3d_s": Swin3D(96, (2, 2, 18, 2), (3, 6, 12, 24), tags=_K400),
    "swin3d_b": Swin3D(
        128, (2, 2, 18, 2), (4, 8, 16, 32), tags={**_K400, "imagenet22k": "KINETICS400_IMAGENET22K_V1"}
    ),
    # Trained by `python -m evclip_ray.world.pretrain`; the second row with the true masks of the actors.
    "swin3d_world": _WORLD_ROW,
    "swin3d_world_masks": _WORLD_ROW,
    # The smallest size with all parts of a published checkpoint, for tests that read one.
    "swin3d_nano": Swin3D(16, (2, 2, 2, 2), (1, 2, 4, 8)),
    "swin3d_debug": Swin3D(16, (1, 1, 1, 1), (1, 2, 4, 8), image_size=64, reads_differences=True),
}


def find_video_encoder(name: str) -> Swin3D:
    """Return the row of VIDEO_ENCODERS called `name`.

    Raises:
        ConfigError: There is none. The message gives the nearest name.
    """
    if name not in VIDEO_ENCODERS:
        raise ConfigError(f"video encoder {name!r} is unknown; {nearest(name, list(VIDEO_ENCODERS))}")
    return VIDEO_ENCODERS[name]


def _read_differences(network: "SwinTransformer3d") -> None:
    import torch

    patches = network.patch_embed
    with torch.no_grad():
        # A patch spans two frames: opposite weights give w (x_2 - x_1), which is 0 for a still video.
        patches.proj.weight[:, :, 0] = -patches.proj.weight[:, :, 1]
        patches.proj.bias.zero_()
    # A layer norm would scale small differences up to the size of large ones.
    patches.norm = torch.nn.Identity()
