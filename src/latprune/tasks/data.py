"""Classification pictures as `split/class/picture`, in a folder or in a zip of one.

`open_images` reads names only; pictures are decoded when a `Split` is indexed. Other sources, such
as `hf_datasets`, are a `Store` of their own.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from latprune.errors import DataError, ModelMismatch, import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SPLITS = ("train", "val", "test")
HUGGING_FACE = "hf:"  # before the name of a data set
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
IMAGENET_CLASSES = 1000


class Store(Protocol):
    """Where files lie."""

    path: Path

    def names(self) -> Iterable[str]:
        """Give all names below `path`, with `/` between parts and at the end of folders."""

    def read(self, name: str) -> bytes:
        """Give a file's content."""


@dataclass(frozen=True)
class Picture:
    """One picture's name in its store, and the position of its class in `ImageData.classes`."""

    name: str
    label: int


@dataclass(frozen=True)
class ImageData:
    """Labelled pictures, by split.

    Attributes:
        store: Where they lie.
        classes: The class folders' names, sorted, over all splits together.
        pictures: Per split its pictures, ordered by class and then by name.
    """

    store: Store
    classes: tuple[str, ...]
    pictures: Mapping[str, tuple[Picture, ...]]

    def split(
        self,
        name: str,
        *,
        transform: Callable[[Any], Any] | None = None,
        labels: Sequence[int] | None = None,
    ) -> Split:
        """Give one split as a dataset of (picture, label).

        Args:
            name: `train`, `val` or `test`.
            transform: Applied to each RGB picture; None gives PIL pictures.
            labels: A label for each of `classes`, as from `labels_for`; None counts them.

        Raises:
            DataError: If the data has no such split.
        """
        if name not in self.pictures:
            raise DataError(
                f"{self.store.path} has no split {name!r}, only {listed(self.pictures)}. "
                f"Add a folder {name}/ with one folder of pictures for each class."
            )
        numbered = tuple(range(len(self.classes)) if labels is None else labels)
        return Split(self.store, self.pictures[name], labels=numbered, transform=transform)

    def labels_for(self, outputs: int) -> tuple[int, ...]:
        """Give, for each class, the model output that stands for it.

        Args:
            outputs: How many outputs the model has. With 1000 of them, folders named by ImageNet's
                WordNet ids (`n01440764`) stand for ImageNet's classes. Otherwise the n-th folder
                stands for output n, and there must be as many folders as outputs.

        Raises:
            ModelMismatch: If the classes do not fit the outputs.
        """
        if outputs == IMAGENET_CLASSES:
            positions = imagenet_positions()
            if all(name in positions for name in self.classes):
                return tuple(positions[name] for name in self.classes)
        if outputs != len(self.classes):
            raise ModelMismatch(
                f"the model has {outputs} outputs and {self.store.path} has {len(self.classes)} "
                f"classes ({listed(self.classes)}). Build the model with "
                f"{len(self.classes)} classes (on the command line: --classes "
                f"{len(self.classes)}), or, for a network of ImageNet's 1000, name the "
                f"folders by WordNet id (n01440764 is tench)."
            )
        return tuple(range(outputs))


class Split(Dataset[tuple[Any, int]]):
    """The pictures of one split, decoded to RGB one by one; works in loader workers."""

    def __init__(
        self,
        store: Store,
        pictures: Sequence[Picture],
        *,
        labels: Sequence[int],
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.store = store
        self.pictures = tuple(pictures)
        self.labels = tuple(labels)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = self.pictures[index]
        image = read_rgb(self.store, picture.name)
        label = self.labels[picture.label]
        return (image if self.transform is None else self.transform(image)), label


def open_images(path: Path | str) -> ImageData:
    """Find the splits, classes and pictures in a folder, a zip or a data set of Hugging Face's.

    Args:
        path: Holds `train/`, `val/` or `test/` (any of them), itself or in one folder inside it;
            in each a folder for every class, with pictures at any depth. Or `hf:NAME`, as for
            `hf_datasets.open_dataset`.

    Returns:
        The data, ordered the same on every machine.

    Raises:
        DataError: If there is no such file, split or class, or a class without pictures.
    """
    if str(path).startswith(HUGGING_FACE):
        from latprune.tasks.hf_datasets import open_dataset  # it makes what is defined here

        return open_dataset(str(path))
    store = open_store(Path(path))
    folders: dict[tuple[str, str], list[str]] = {}
    loose: Counter[str] = Counter()
    for entry in _entries(store):
        if not entry.folders:
            loose[entry.split] += bool(entry.file)
            continue
        pictures = folders.setdefault((entry.split, entry.folders[0]), [])
        if entry.file.lower().endswith(EXTENSIONS):
            pictures.append(entry.name)
    _check(store.path, folders, loose)
    classes = sorted({name for _, name in folders})
    return ImageData(store, classes=tuple(classes), pictures=_by_split(folders, classes))


def imagenet_positions() -> dict[str, int]:
    """Give the output of each ImageNet class by its WordNet id, from timm's list."""
    info = import_extra("timm.data", "train").ImageNetInfo()
    return {name: position for position, name in enumerate(info.label_names())}


def read_rgb(store: Store, name: str) -> Any:
    """Decode a picture to a PIL image in RGB.

    Of 16-bit pictures 65535 is white, of pictures of floats 1.0.

    Raises:
        DataError: If it cannot be decoded, or nothing says which of its numbers is white; names
            the picture.
    """
    image_module = import_extra("PIL.Image", "train")
    try:
        with image_module.open(io.BytesIO(store.read(name))) as image:
            return _in_8_bits(image).convert("RGB")
    except image_module.UnidentifiedImageError as error:
        raise DataError(
            f"{store.path}: the picture {name} cannot be read: Pillow knows no such format. "
            f"Replace or remove it."
        ) from error
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{store.path}: the picture {name} cannot be read ({error}). Replace or remove it."
        ) from error


def _in_8_bits(image: Any) -> Any:
    """Scale a picture of wider numbers, which Pillow would cut off at 255.

    Raises:
        ValueError: If nothing says which of them is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        shares = np.asarray(image) / 65535
    elif image.mode in ("F", "I"):
        shares = np.asarray(image)
        if image.mode == "I" or not (shares.min() >= 0 and shares.max() <= 1):
            raise ValueError(
                f"its numbers go from {shares.min():g} to {shares.max():g}, and nothing says which "
                f"is white: store it in 8 or 16 bits, or as floats from 0 to 1"
            )
    else:
        return image
    eight_bits = np.rint(255 * shares).astype(np.uint8)
    return import_extra("PIL.Image", "train").fromarray(eight_bits)


class Folder:
    """Files in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> Iterable[str]:
        """Give all names below the directory; links are followed, but not back up."""
        above: dict[str, frozenset[tuple[int, int]]] = {}
        for folder, folders, files in os.walk(self.path, followlinks=True):
            passed = above.pop(folder, frozenset()) | {_identity(folder)}
            # What leads to a folder that it lies in would be walked round and round.
            below = {name: str(Path(folder, name)) for name in folders}
            folders[:] = [name for name in folders if _identity(below[name]) not in passed]
            above |= dict.fromkeys((below[name] for name in folders), passed)
            relative = Path(folder).relative_to(self.path).as_posix()
            inside = "" if relative == "." else f"{relative}/"
            yield inside
            yield from (f"{inside}{file}" for file in files)

    def read(self, name: str) -> bytes:
        """Give a file's content."""
        return (self.path / name).read_bytes()


def _identity(folder: str) -> tuple[int, int]:
    """Give what tells a folder from all others, whatever links lead to it."""
    found = Path(folder).stat()
    return found.st_dev, found.st_ino


class Zip:
    """Files in a zip archive, opened once in every process that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def names(self) -> Iterable[str]:
        """Give all names in the archive."""
        return self._archive().namelist()

    def read(self, name: str) -> bytes:
        """Give a file's content."""
        return self._archive().read(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open": None}

    def _archive(self) -> zipfile.ZipFile:
        # A forked worker shares the file's position with its parent: it needs a handle of its own.
        process = os.getpid()
        if self._open is None or self._open[0] != process:
            self._open = (process, zipfile.ZipFile(self.path))
        return self._open[1]


def open_store(path: Path) -> Store:
    """Open a folder or a zip.

    Raises:
        DataError: If it is neither, or not there.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DataError(f"there is no folder or zip {path}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is neither a folder nor a zip archive")
    return Zip(path)


@dataclass(frozen=True)
class _Entry:
    """A file, or with an empty `file` a folder, below a split."""

    split: str
    folders: tuple[str, ...]
    file: str
    name: str


def _entries(store: Store) -> Iterator[_Entry]:
    names = [name for name in store.names() if not _hidden(name)]
    depth = _depth_of_splits(store.path, names)
    for name in names:
        *folders, file = name.split("/")
        if len(folders) > depth and folders[depth] in SPLITS:
            yield _Entry(folders[depth], tuple(folders[depth + 1 :]), file, name)


def _depth_of_splits(path: Path, names: Sequence[str]) -> int:
    folders = [name.split("/")[:-1] for name in names]
    tops = {parts[0] for parts in folders if parts}
    if tops & set(SPLITS):
        return 0
    if len(tops) == 1 and {parts[1] for parts in folders if len(parts) > 1} & set(SPLITS):
        return 1
    raise DataError(
        f"{path} has no folder train/, val/ or test/, at its top or in a single folder there; "
        f"found {listed(sorted({name.split('/')[0] for name in names} - {''})) or 'nothing'}"
    )


def _by_split(
    folders: Mapping[tuple[str, str], Sequence[str]], classes: Sequence[str]
) -> dict[str, tuple[Picture, ...]]:
    present = [split for split in SPLITS if any(of == split for of, _ in folders)]
    return {
        split: tuple(
            Picture(name, label)
            for label, class_name in enumerate(classes)
            for name in sorted(folders.get((split, class_name), ()))
        )
        for split in present
    }


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _check(
    path: Path, folders: Mapping[tuple[str, str], Sequence[str]], loose: Mapping[str, int]
) -> None:
    if not folders:
        found = ", ".join(f"{count} files directly in {split}/" for split, count in loose.items())
        raise DataError(
            f"{path} has no classes: put the pictures of each class into a folder of its own, "
            f"such as train/cat/1.jpg; found {found or 'empty splits'}"
        )
    for (split, name), files in sorted(folders.items()):
        if not files:
            raise DataError(
                f"{path}: the class {split}/{name} has no pictures ({', '.join(EXTENSIONS)}). "
                f"Fill or remove the folder."
            )


def listed(names: Iterable[str], *, most: int = 6) -> str:
    """Name the first few, and say how many more there are."""
    given = list(names)
    return ", ".join(given[:most]) + (f" and {len(given) - most} more" if given[most:] else "")
