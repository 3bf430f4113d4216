"""Find near-duplicate slices: a perceptual hash proposes pairs, correlation confirms them, mirrored ones included.

The thresholds were chosen on real slices. 1,099 "no tumour" images of public collections fall into 119 groups, the
largest of 57: such collections are enlarged by mirroring and by changing contrast (290 groups without the mirrors).
It is 117 to 125 groups from a correlation of 0.95 to 0.98 and from 8 to 14 bits. At 0.96 and 10 bits, of the two
million pairs of figshare slices in different folds, so of different people, 26 are taken for duplicates (at 0.90
already 394), and of those of a figshare slice and an image none. Joining too much makes groups larger; it makes no
leak. Copies that are turned otherwise, cropped or zoomed are not found.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = 2  # of what counts as a near-duplicate, and for whom; a dataset grouped by another is prepared again
THUMBNAIL = 32  # pixels on each side
HASH_SIDE = 8  # so 64 bits
MAX_BITS = 10
MIN_CORRELATION = 0.96
BLOCK = 1024  # rows of the distance matrix at a time: 8 MiB for every 1,000 slices
Images = Iterable[NDArray[np.uint8]]
MIRRORS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # steps along rows and columns


def near_duplicates(images: Images, others: Images | None = None) -> NDArray[np.int64]:
    """Find pairs of near-duplicates among N slices, or between them and M others.

    Time grows with N squared, or N times M: a second for 3,500 slices, minutes for 100,000; memory with N and M (4 KiB
    a slice and mirror).

    Args:
        images, others: (S, S) uint8 each.

    Returns:
        (P, 2) indices in order: into `images`, the smaller first; or into `images` and into `others`.

    """
    thumbnails = _thumbnails(images)
    asked = thumbnails if others is None else _thumbnails(others)
    hashes = _hashes(thumbnails)
    pairs = [np.empty((0, 2), np.int64)]
    for down, across in MIRRORS:
        mirrored = np.ascontiguousarray(asked[:, ::down, ::across])
        mirrored_hashes = _hashes(mirrored)
        for start in range(0, len(hashes), BLOCK):
            first = start if others is None else 0
            bits = np.bitwise_count(hashes[start : start + BLOCK, None] ^ mirrored_hashes[None, first:])
            left, right = np.nonzero(bits <= MAX_BITS)
            left, right = left + start, right + first
            if others is None:
                left, right = left[left < right], right[left < right]
            correlation = np.array([np.vdot(thumbnails[i], mirrored[j]) for i, j in zip(left, right, strict=True)])
            pairs.append(np.stack([left, right], axis=1)[correlation >= MIN_CORRELATION])
    return np.unique(np.concatenate(pairs), axis=0)


def groups(count: int, pairs: Iterable[Sequence[int]]) -> list[int]:
    """Number the group of each of `count` things that pairs connect, directly or through others, by its first member.

    >>> groups(5, [(3, 4), (1, 3)])
    [0, 1, 2, 1, 1]
    """
    first = list(range(count))

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = index = first[first[index]]  # halve the path on the way
        return index

    for left, right in pairs:
        low, high = sorted((root(int(left)), root(int(right))))
        first[high] = low
    return [root(index) for index in range(count)]


def _thumbnails(images: Images) -> NDArray[np.float32]:
    """Shrink slices to (N, 32, 32), each centred and of length 1, so that a dot product is a correlation."""
    thumbnails = []
    for image in images:
        small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        values = np.asarray(small, np.float32)
        values = values - values.mean()
        thumbnails.append(values / max(float(np.linalg.norm(values)), 1e-6))
    return np.stack(thumbnails) if thumbnails else np.empty((0, THUMBNAIL, THUMBNAIL), np.float32)


def _hashes(thumbnails: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hash thumbnails to 64 bits (N,): which of the lowest cosine frequencies lie above their median (pHash)."""
    frequencies = np.arange(1, HASH_SIDE + 1)[:, None]
    basis = np.cos(np.pi * (2 * np.arange(THUMBNAIL) + 1) * frequencies / (2 * THUMBNAIL)).astype(np.float32)
    spectrum = (basis @ thumbnails @ basis.T).reshape(len(thumbnails), HASH_SIDE**2)
    bits = spectrum > np.median(spectrum, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()
