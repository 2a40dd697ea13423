"""A file with another beginning, without a copy of the rest."""

import io
from typing import BinaryIO


class Spliced(io.RawIOBase):
    """A header of our own before a range of another file's bytes."""

    def __init__(self, header: bytes, file: BinaryIO, first: int, length: int):
        self._header, self._file, self._first, self._size = header, file, first, len(header) + length
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer) -> int:
        size = max(0, min(len(buffer), self._size - self._place))
        head = self._header[self._place:self._place + size]
        self._file.seek(self._first + max(0, self._place - len(self._header)))
        content = head + self._file.read(size - len(head))
        buffer[:len(content)] = content
        self._place += len(content)
        return len(content)
