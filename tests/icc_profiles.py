"""ICC profiles (version 2) made on the spot."""

import struct

import numpy as np

# White point D50, that of every profile's connection space, and the primaries in it (columns red, green, blue).
D50 = (0.9642, 1.0, 0.8249)
PRIMARIES = {
    "display_p3": [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
    "adobe_rgb": [[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]],
    "prophoto": [[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0000, 0.0000, 0.8249]],
    "srgb": [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]],
}


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _profile(space: bytes, tags: dict[bytes, bytes], device: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)} | tags
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, offset + len(data), len(content))
        data += content
    size = offset + len(data)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"test", 0x02400000, device, space, connection, bytes(12), b"acsp")
    return (header + bytes(28) + _fixed(*D50)).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def _srgb_curve() -> bytes:
    x = np.arange(1024) / 1023
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + np.round(y * 65535).astype(">u2").tobytes()


def rgb_profile(primaries: str, gamma: float | None = None) -> bytes:
    """A display's profile; without a gamma it has sRGB's curve."""
    curve = _srgb_curve() if gamma is None else _gamma(gamma)
    columns = {name: b"XYZ " + bytes(4) + _fixed(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), zip(*PRIMARIES[primaries]))}
    return _profile(b"RGB ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _gamma(gamma)})


def ink_profile() -> bytes:
    """Four inks of which only black counts: the lightness is 100 without it and 0 with all of it."""
    grid = np.zeros((2, 2, 2, 2, 3), np.uint8)
    grid[..., 0, 0] = 255
    grid[..., 1:] = 128
    ramp = np.arange(256, dtype=np.uint8).tobytes()
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + grid.tobytes() + ramp * 3
    return _profile(b"CMYK", {b"A2B0": lut}, device=b"prtr", connection=b"Lab ")
