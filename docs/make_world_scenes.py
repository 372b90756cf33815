"""Draw the picture of the small world's domains for the documentation.

Run: python docs/make_world_scenes.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evclip_ray.world.scenes import draw_scene

ROWS = [
    ("plain", "waving the right arm"),
    ("clutter", "waving the right arm"),
    ("dark", "waving the right arm"),
    ("egocentric", "waving the right arm"),
    ("temporal", "standing up"),
]
COLUMNS = ("frame 2", "frame 8", "frame 14", "frame 20", "true mask")
SIZE, GAP, LEFT, TOP = 96, 3, 84, 18
SHOWN = (1, 7, 13, 19)


def main() -> None:
    """Write `images/world_scenes.png`."""
    width = LEFT + len(COLUMNS) * (SIZE + GAP)
    picture = Image.new("RGB", (width, TOP + len(ROWS) * (SIZE + GAP)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for column, title in enumerate(COLUMNS):
        pen.text((LEFT + column * (SIZE + GAP) + SIZE / 2, 2), title, "black", font, anchor="ma")
    for row, (domain, action) in enumerate(ROWS):
        top = TOP + row * (SIZE + GAP)
        scene = draw_scene(
            action,
            seed=(4, row // 4),
            look_seed=(11, row // 4),
            domain=domain,
            dial=1,
            num_frames=24,
            size=SIZE,
        )
        mask = np.repeat(scene.actor_mask[SHOWN[-1], ..., None], 3, axis=-1)
        for column, image in enumerate([*scene.frames[list(SHOWN)], mask]):
            picture.paste(Image.fromarray(image), (LEFT + column * (SIZE + GAP), top))
        pen.text((LEFT - 6, top + SIZE / 2), domain, "black", font, anchor="rm")
    # Noise does not compress, so the colours are reduced.
    path = Path(__file__).parent / "images" / "world_scenes.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
