"""Files that are whole or absent, whatever happens meanwhile: what every room that writes goes through.

    atomic.write_json(path, content)              the old file or the new one, flushed to the disk
    with folders.building(folder) as new: ...     a folder that takes its place when all of it is written
    with locks.FolderLock(folder, ...): ...       the only process that writes there
    checksums.of_file(path)                       xxh3, to tell a flipped bit

The walls of this room: names (of what is temporary, and whose process is dead), atomic (single files), folders (whole
ones), locks, checksums, manifests (what a folder must hold), reading (text, JSON), plain_yaml, tensors (safetensors).
"""
