"""How a camera moves between two frames, and what moves besides: robust registration in plain numpy.

The later frame J is explained by the earlier one, I, seen through a moving camera in changing light:

    J(p + d(p)) = (1 + g) I(p) + c + r(p),      d(p) = shift + (a0 + a1 x + a2 y, b0 + b1 x + b2 y)

`shift` is the peak of the phase correlation (Kuglin and Hines, 1975) in whole pixels; the affine field, the
gain g and the offset c are least squares, reweighted by Tukey's bisquare so that what moves on its own
counts for nothing. Camera motion is the size of d. Scene motion is the size of the shifts that explain r, one
for each block of pixels, by the gradients there (Lucas and Kanade, 1981); blocks without texture say nothing
and are shrunk to no motion. Both are relative to the width of the frame, a step of the view.

Holds while most of the texture belongs to the background and a block's own motion is a few hundredths of
the width or less; faster things are seen as moving, and their speed is underestimated.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Pixels on the short side: enough for a tenth of a per cent of the width, few enough for a thousand videos.
_SIDE = 64
_BLOCK = 8
_ROUNDS = 10
# Tukey's constant: 95 % of the efficiency of least squares under Gaussian noise.
_TUKEY = 4.685
# Half a level of 8-bit colour: nothing finer is known of a pixel.
_LEVEL = 0.5 / 255
# Shifts of more than a third leave too little in common to tell.
_LARGEST_SHIFT = 1 / 3
# Two frames of nothing but noise match a little better somewhere; a shift must match clearly better.
_CLEARLY = 0.9
_SHRINKAGE = 0.1
# Pixels, or shares of the light.
_NEGLIGIBLE = 1e-3


def motion_between(before: Array, after: Array) -> tuple[float, float]:
    """Camera and scene motion from `before` to `after`, both (H, W) luma in [0, 1].

    Both in per cent of the frame's width: the root mean square over the frame of the camera's
    displacement, and the mean over blocks of the rest.
    """
    first, second = _reduced(before), _reduced(after)
    width = first.shape[1]
    down, right = _whole_shift(first, second)
    first, second = _overlap(first, second, down, right)
    field, residual, gradient_y, gradient_x = _register(first, second)
    camera = np.sqrt(np.mean((field[0] + down) ** 2 + (field[1] + right) ** 2))
    scene = _block_shifts(residual, gradient_y, gradient_x).mean()
    return 100 * float(camera) / width, 100 * float(scene) / width


def _reduced(luma: Array) -> Array:
    """About 64 pixels on the short side, by means of square blocks, then blurred a little.

    The blur makes intensity nearly linear over the pixel or so that gradients are asked to explain.
    """
    factor = max(min(luma.shape) // _SIDE, 1)
    height, width = (side // factor for side in luma.shape)
    blocks = luma[: height * factor, : width * factor].reshape(height, factor, width, factor)
    image: Array = blocks.mean((1, 3))
    for axis in (0, 1):
        image = _blurred(image, axis)
    return image


def _blurred(image: Array, axis: int) -> Array:
    """Convolved with (1, 4, 6, 4, 1) / 16 along an axis, the border repeated."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (2, 2)
    padded, length = np.pad(image, pad, mode="edge"), image.shape[axis]
    parts = [np.take(padded, range(start, start + length), axis) for start in range(5)]
    blurred: Array = (parts[0] + parts[4] + 4 * (parts[1] + parts[3]) + 6 * parts[2]) / 16
    return blurred


def _whole_shift(first: Array, second: Array) -> tuple[int, int]:
    """Pixels down and right; (0, 0) unless another shift explains the frames better."""
    shape = first.shape
    window = np.hanning(shape[0])[:, None] * np.hanning(shape[1])
    spectra = [np.fft.rfft2((image - image.mean()) * window) for image in (first, second)]
    cross = spectra[1] * np.conj(spectra[0])
    correlation = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-12), shape)
    peak = np.unravel_index(int(correlation.argmax()), shape)
    down, right = (int(p) - side if p > side // 2 else int(p) for p, side in zip(peak, shape, strict=True))
    if max(abs(down) / shape[0], abs(right) / shape[1]) > _LARGEST_SHIFT:
        return 0, 0
    # Absolute, not squared: a figure that moves must not outvote a background that lies still.
    costs = [np.mean(np.abs(np.subtract(*_overlap(first, second, *s)))) for s in ((0, 0), (down, right))]
    return (down, right) if costs[1] < _CLEARLY * costs[0] else (0, 0)


def _overlap(first: Array, second: Array, down: int, right: int) -> tuple[Array, Array]:
    """The parts of both frames that show the same, were the second shifted by (down, right)."""
    height, width = first.shape
    top, left = max(-down, 0), max(-right, 0)
    bottom, edge = height - max(down, 0), width - max(right, 0)
    return first[top:bottom, left:edge], second[top + down : bottom + down, left + right : edge + right]


def _register(first: Array, second: Array) -> tuple[Array, Array, Array, Array]:
    """The affine field (2, h, w) in pixels, what it leaves (h, w), and the gradients down and right."""
    height, width = first.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    basis = np.stack([np.ones_like(x), 2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1])
    affine, gain, offset = np.zeros((2, 3)), 0.0, 0.0
    for _ in range(_ROUNDS):
        field = np.tensordot(affine, basis, 1)
        seen, inside = _sampled(second, y + field[0], x + field[1])
        residual = np.where(inside, seen - (1 + gain) * first - offset, 0)
        gradient_y, gradient_x = (np.asarray(g) for g in np.gradient((seen + first) / 2))
        columns = [*(gradient_y * basis), *(gradient_x * basis), -first, -np.ones_like(first)]
        step = _weighted_step(np.stack(columns).reshape(8, -1), residual.ravel(), inside.ravel())
        if np.abs(step).max() < _NEGLIGIBLE:
            break
        affine += step[:6].reshape(2, 3)
        gain, offset = gain + step[6], offset + step[7]
    return field, residual, gradient_y, gradient_x


def _weighted_step(columns: Array, residual: Array, inside: NDArray[np.bool_]) -> Array:
    """The (8,) change of the parameters that lowers the weighted squares of (h w,) `residual` most."""
    spread = 1.4826 * float(np.median(np.abs(residual[inside]))) if inside.any() else 0.0
    scaled: Array = residual / (_TUKEY * max(spread, _LEVEL))
    weights: Array = np.where(inside & (np.abs(scaled) < 1), (1 - scaled**2) ** 2, 0.0)
    # Minimum norm: what the pixels do not tell (a blank wall, a gain) stays as it is.
    normal = (columns * weights) @ columns.T
    step = np.linalg.lstsq(normal, -(columns * weights) @ residual, rcond=1e-6)[0]
    return step.astype(np.float64)


def _sampled(image: Array, y: Array, x: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The image at real positions, bilinear, and whether they are inside."""
    height, width = image.shape
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    part_y, part_x = y - top, x - left
    above = image[top, left] * (1 - part_x) + image[top, left + 1] * part_x
    below = image[top + 1, left] * (1 - part_x) + image[top + 1, left + 1] * part_x
    return above * (1 - part_y) + below * part_y, inside


def _block_shifts(residual: Array, gradient_y: Array, gradient_x: Array) -> Array:
    """The shift in pixels that explains each block's residual best, at most the block's own size."""
    energy = (gradient_y**2 + gradient_x**2).mean() / 2
    ridge = _SHRINKAGE * energy + _LEVEL**2
    yy, xx = _block_means(gradient_y**2) + ridge, _block_means(gradient_x**2) + ridge
    xy = _block_means(gradient_x * gradient_y)
    ry, rx = _block_means(gradient_y * residual), _block_means(gradient_x * residual)
    determinant = yy * xx - xy**2
    down, right = (xx * ry - xy * rx) / determinant, (yy * rx - xy * ry) / determinant
    shifts: Array = np.minimum(np.hypot(down, right), _BLOCK)
    return shifts


def _block_means(values: Array) -> Array:
    size = min(_BLOCK, *values.shape)
    rows, columns = (side // size for side in values.shape)
    blocks = values[: rows * size, : columns * size].reshape(rows, size, columns, size)
    means: Array = blocks.mean((1, 3))
    return means
