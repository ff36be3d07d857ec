"""Photos that nobody annotated: a folder of them, or a list with prompts. Near-duplicates and other people's test
pictures among them are found by their pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmpo.data.image_digests import pixel_digest
from mmpo.data.near_duplicates import NEAR, NearDuplicates, difference_hash
from mmpo.data.pair import placeholder_in
from mmpo.data.records import read_records, text_of
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image
from mmpo.files.paths import inside

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm")
"""Endings of the files that are taken for photos in a folder, in either case."""
AT_ONCE = 64
_HASHES = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


@dataclass(frozen=True)
class PhotoPrompt:
    """A prompt about a photo, and the right answer where the list has one."""

    text: str
    answer: str | None = None


@dataclass(frozen=True)
class ListedPhoto:
    """A photo, `path` below `root`, with the prompts that the list has for it; a folder has none."""

    path: str
    root: Path
    prompts: tuple[PhotoPrompt, ...] = ()

    @property
    def id(self) -> str:
        return self.path


def list_photos(source: Path, *, links: bool = False) -> list[ListedPhoto]:
    """The photos of a folder and of those in it, by path, or of a list in its order: JSON Lines (or one JSON list) of
    `{"image": PATH, "prompt"?: TEXT, "answer"?: TEXT}`, paths below the list's folder; a photo that is listed twice
    has two prompts. Hidden files and folders are left out. UserError for a source without photos, and for a wrong row.
    """
    if source.is_dir():
        found = [ListedPhoto(path, source) for path in sorted(_below(source, links))]
    elif source.is_file():
        if source.suffix.lower() in SUFFIXES:
            raise UserError(
                f"{source} is one photo; a folder of photos belongs here", hint=f"its folder: {source.parent}"
            )
        found = _listed(source)
    else:
        raise UserError(f"{source}: no such folder or list of photos")
    if not found:
        endings = ", ".join(SUFFIXES)
        inside_ = sorted(
            {path.suffix.lower() or path.name for path in islice(source.rglob("*"), 2000) if path.is_file()}
        )
        hint = (
            f"it holds files ending in {', '.join(inside_[:6])}; photos end in {endings}" if inside_ else "it is empty"
        )
        raise UserError(f"{source}: no photos are there", hint=hint)
    return found


def _below(folder: Path, links: bool) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        if path.is_file() or (path.is_symlink() and not links):  # a link that may not be followed is told as such
            yield relative.as_posix()


def _listed(source: Path) -> list[ListedPhoto]:
    prompts: dict[str, list[PhotoPrompt]] = {}
    for where, row in read_records(source):
        path = text_of(row, ("image",), where)
        own = prompts.setdefault(path, [])
        given = {key: text_of(row, (key,), where) for key in ("prompt", "answer") if row.get(key) is not None}
        for key, text in given.items():
            if not text.strip():
                raise UserError(f"{where}: `{key}` is empty", hint="leave it out")
            if tag := placeholder_in(text):
                raise UserError(f"{where}: `{key}` contains {tag!r}", hint="the photo is shown before it anyway")
        if "answer" in given and "prompt" not in given:
            raise UserError(f"{where}: an `answer` without a `prompt`", hint='{"image": …, "prompt": …, "answer": …}')
        if "prompt" in given:
            if any(prompt.text == given["prompt"] for prompt in own):
                raise UserError(f"{where}: this prompt is there twice for {path}", hint="leave one of them out")
            own.append(PhotoPrompt(given["prompt"], given.get("answer")))
    return [ListedPhoto(path, source.parent, tuple(own)) for path, own in prompts.items()]


@dataclass(frozen=True)
class SeenPhoto:
    """What the pixels of a photo say: their digest (`pixel_digest`), `difference_hash`, and size, upright."""

    key: str
    dhash: str
    width: int
    height: int


def look_at(photos: Iterable[ListedPhoto]) -> Iterator[SeenPhoto | Quarantined]:
    """Decode each photo; what can't be used comes as its reason. A few are in memory at a time."""

    def see(photo: ListedPhoto) -> SeenPhoto | Quarantined:
        try:
            inside(photo.root, photo.path)
            image = load_image(photo.path, root=photo.root)
        except Quarantined as error:
            return error
        return SeenPhoto(pixel_digest(image), difference_hash(image), image.width, image.height)

    waiting = iter(photos)
    with ThreadPoolExecutor() as pool:
        while part := list(islice(waiting, AT_ONCE)):
            yield from pool.map(see, part)


class OtherPhotos:
    """Photos that must not be among one's own: folders of them, or lists of hashes."""

    def __init__(self) -> None:
        self._same: dict[str, str] = {}
        self._near = NearDuplicates()

    def __len__(self) -> int:
        return len(self._same) + len(self._near)

    def add(self, photo: SeenPhoto, name: str) -> None:
        """A photo; `name` says where it is from."""
        self._same.setdefault(photo.key, name)
        self._near.add(photo.dhash, name)

    def add_hashes(self, path: Path) -> None:
        """A file with one hash a line: 32 hexadecimal digits are a digest of pixels (as in `images.sha256`), 64 a
        difference hash. UserError for anything else."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} can't be read as a list of hashes: {error}") from None
        for number, line in enumerate(lines, start=1):
            digest = line.strip().lower()
            if not digest:
                continue
            if not _HASHES.fullmatch(digest):
                raise UserError(
                    f"{path}:{number}: {line.strip()[:80]!r} is no hash of a picture",
                    hint="32 hexadecimal digits (a line of images.sha256) or 64 (a difference hash)",
                )
            if len(digest) == 64:
                self._near.add(digest, path.name)
            else:
                self._same.setdefault(digest, path.name)
        if not len(self):
            raise UserError(f"{path}: no hashes are in it")

    def match(self, photo: SeenPhoto) -> tuple[str, int | None] | None:
        """The name of a photo of the same pixels (without a distance), or of the nearest one within `NEAR` bits with the
        number of those that differ; None if there is none."""
        if (name := self._same.get(photo.key)) is not None:
            return name, None
        return self._near.nearest(photo.dhash)


def clusters(photos: Sequence[SeenPhoto | Quarantined], names: Sequence[str]) -> list[str | None]:
    """For each photo the name of the first one that it is a near-duplicate of, its own where it is the first of its
    kind; None for what could not be decoded. Only firsts are compared with, so a chain of small changes ends."""
    seen = NearDuplicates()
    found: list[str | None] = []
    for photo, name in zip(photos, names, strict=True):
        if isinstance(photo, Quarantined):
            found.append(None)
            continue
        twin = seen.nearest(photo.dhash)
        if twin is None:
            seen.add(photo.dhash, name)
        found.append(name if twin is None else twin[0])
    return found


__all__ = [
    "NEAR", "SUFFIXES", "ListedPhoto", "OtherPhotos", "PhotoPrompt", "SeenPhoto", "clusters", "list_photos", "look_at",
]  # fmt: skip
