"""Pictures that look alike although their pixels differ: scaled, compressed again, slightly cut or recoloured.

`difference_hash` says of a small grey copy where it gets brighter to the right (dHash, Krawetz 2013, here 16x16 bits).
Two pictures of which at most `NEAR` of the 256 bits differ count as one picture seen twice. A picture of one colour has
no differences, so two such are always near.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from PIL import Image

NEAR = 10
"""Most bits that differ between two copies of one picture."""
_SIDE = 16
_BITS = _SIDE * _SIDE
_BANDS = NEAR + 1  # of so many parts at least one is equal where at most NEAR bits differ


def difference_hash(image: Image.Image) -> str:
    """dHash of an RGB picture as `load_image` gives it: 64 hexadecimal digits, 256 bits, row by row. A bit is set where
    the right one of two neighbours in the 17x16 grey copy is brighter."""
    grey = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BILINEAR), dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


class NearDuplicates:
    """Pictures by hash, to find those near another one. Exact: at most `NEAR` changed bits leave one of `NEAR` + 1
    bands as it was, so only pictures with an equal band are compared.

        seen = NearDuplicates()
        if (twin := seen.nearest(hash)) is None:
            seen.add(hash, path)
    """

    def __init__(self) -> None:
        self._bands: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]
        self._hashes: list[int] = []
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, hash: str, name: str) -> None:
        value = int(hash, 16)
        for band, part in zip(self._bands, _parts(value), strict=True):
            band[part].append(len(self._hashes))
        self._hashes.append(value)
        self._names.append(name)

    def nearest(self, hash: str) -> tuple[str, int] | None:
        """The name of the nearest picture within `NEAR` bits, the first added of equally near ones, and its distance;
        None where there is none."""
        value = int(hash, 16)
        near = {number for band, part in zip(self._bands, _parts(value), strict=True) for number in band.get(part, ())}
        distances = (((value ^ self._hashes[number]).bit_count(), number) for number in near)
        distance, number = min(distances, default=(_BITS, 0))
        return None if distance > NEAR else (self._names[number], distance)


def _parts(value: int) -> list[int]:
    """The bits of a hash in `_BANDS` parts of equal size, but for the last."""
    size = -(-_BITS // _BANDS)
    return [(value >> (size * number)) & ((1 << size) - 1) for number in range(_BANDS)]
