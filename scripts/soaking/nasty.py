"""Values that nobody expects, and ways to spoil a text or a file."""

from __future__ import annotations

from pathlib import Path
from random import Random

BOMB = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 25))])
# As they stand in YAML.
VALUES = (
    ".inf",
    "-.inf",
    ".nan",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "9" * 5000,
    "5",
    "0.5",
    "''",
    "' '",
    "[]",
    "{}",
    "[[]]",
    "{a: {b: c}}",
    "[1, two, null]",
    "/dev/zero",
    "/dev/full",
    "..",
    "~nobody/x",
    '"\\ud800"',
    '"\\e[31mred"',
    '"a[/b]"',
    '"\\0"',
    "!!python/object/apply:os.system [true]",
    "!!binary x",
    "*nowhere",
    "&a [*a]",
    "2024-02-30",
    "1:2:3",
    "yes",
    '"{x.__class__}"',
    "'../../../etc/passwd'",
    "x" * 3000,
    '"<script>"',
    "[" * 100 + "]" * 100,
    "0x1F",
    "1_000",
)
KEYS = ("a.b", "seed.x", "'1'", "1", "? [1, 2]", "<<", "tasks", "method", "mixing.temperature", "''", "output_dir", "~")
BYTES = (
    b"",
    b"\x00",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b"5",
    b'"x"',
    b"[" * 50_000,
    b'{"tasks": 5}',
    b"\x1b[31m",
)


def spoil_yaml(random: Random, text: str) -> str:
    """A YAML text with one to three things changed."""
    lines = text.splitlines()
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(lines))
        key, colon, _ = lines[place].partition(": ")
        kind = random.randrange(7)
        if kind <= 2 and colon:
            lines[place] = f"{key}: {random.choice(VALUES)}"
        elif kind == 3:
            lines.insert(place, f"{random.choice(KEYS)}: {random.choice(VALUES)}")
        elif kind == 4:
            lines.insert(place, lines[random.randrange(len(lines))])
        elif kind == 5 and len(lines) > 1:
            del lines[place]
        else:
            lines[place] = spoil_text(random, lines[place])
    if random.random() < 0.03:
        lines.append(BOMB)
    return "\n".join(lines) + "\n"


def spoil_text(random: Random, text: str) -> str:
    """A text with a stretch cut out, repeated or replaced."""
    start = random.randint(0, len(text))
    end = min(len(text), start + random.randint(0, 8))
    sign = random.choice(
        ("", "\t", ":", "[", "}", "'", '"', "#", "{", "\x07", "\u202e", "\u00e9", "%", "\\", "&x ", "*x ")
    )
    return text[:start] + sign * random.randint(1, 3) + text[end:]


def spoil_file(random: Random, path: Path) -> str:
    """Change a file, or what stands in its place; gives in words what was done."""
    kind = random.choice(("flip", "flip", "cut", "replace", "grow", "remove", "folder", "link"))
    content = path.read_bytes()
    if kind == "flip" and content:
        place = random.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: random.randint(0, len(content))])
    elif kind == "grow":
        path.write_bytes(content + random.randbytes(random.randint(1, 100)))
    elif kind in ("remove", "folder", "link"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(path.name)  # to itself
    else:
        path.write_bytes(random.choice(BYTES))
    return f"{kind} {path.name}"
