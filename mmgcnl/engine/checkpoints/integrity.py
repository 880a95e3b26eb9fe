"""Detection of damaged checkpoints, and of archives that would fill the memory."""

from __future__ import annotations

import os
import zipfile


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or would run code when loaded."""


# Weights hardly compress, and torch.save does not try.
MAX_EXPANSION = 10


def check_archive(path: str) -> None:
    """Check a checkpoint's checksums, which torch.load ignores.

    torch.save writes a zip archive, with the CRC-32 of each tensor. Files in the older
    formats, and those that were saved without checksums, are not checked.

    Args:
        path: The file.

    Raises:
        CheckpointError: A checksum is wrong, or the archive unpacks to more than ten times
            its size.
        zipfile.BadZipFile: The archive is broken.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size, unpacked = os.path.getsize(path), sum(entry.file_size for entry in entries)
        if unpacked > MAX_EXPANSION * size:
            raise CheckpointError(
                f'{path} refused: its {size} bytes unpack to {unpacked}, but checkpoints '
                'are not compressed, so this is meant to fill the memory'
            )
        if all(entry.CRC == 0 for entry in entries):
            return  # torch.serialization.set_crc32_options(False)
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f'{path} is damaged: the checksum of {damaged} in it is wrong; copy the file '
            'again, or use another checkpoint'
        )
