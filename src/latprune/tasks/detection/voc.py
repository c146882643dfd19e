"""Pictures with boxes in the layout of PASCAL VOC, in a folder or in a zip of one.

A root holds `Annotations/ID.xml`, `ImageSets/Main/SPLIT.txt` and `JPEGImages/ID.jpg`. VOCdevkit
holds one root for each year, `VOC2007/` and `VOC2012/`.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latprune.errors import DataError, import_extra
from latprune.tasks.data import EXTENSIONS, Store, listed, open_store, read_rgb
from latprune.tasks.detection.annotations import Annotation, read_annotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# In the order of the benchmark's own list.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class VocData:
    """Annotated pictures to train on and to judge with.

    Attributes:
        store: Where they lie.
        classes: Names, the n-th of which is label n + 1; 0 is the background. Of all annotations
            that there are, whichever splits are used, so that a label means the same in each. VOC's
            own order for VOC's classes, else sorted.
        train: The pictures to train on.
        judged: The pictures to judge with; none of them is in `train`.
        train_name: Which they are, as `2007+2012:trainval`.
        judged_name: As `train_name`.
    """

    store: Store
    classes: tuple[str, ...]
    train: tuple[Annotation, ...]
    judged: tuple[Annotation, ...]
    train_name: str
    judged_name: str

    @property
    def dropped(self) -> tuple[str, ...]:
        """The pictures that have boxes without area, once for each of these boxes."""
        return tuple(
            each.picture for each in (*self.train, *self.judged) for _ in range(each.dropped)
        )

    def split(
        self, annotations: Sequence[Annotation], transform: Callable[..., Any] | None = None
    ) -> VocSplit:
        """Give `train` or `judged` as a dataset."""
        return VocSplit(self.store, annotations, classes=self.classes, transform=transform)


class VocSplit(Dataset[tuple[Any, dict[str, Tensor]]]):
    """Pictures, decoded one by one, and their boxes; works in loader workers.

    Items are (picture, target) after `transform`, which gets an RGB PIL picture and `boxes`
    [objects, 4] (torchvision's `BoundingBoxes`, corners in pixels), `labels` [objects] and
    `difficult` [objects].
    """

    def __init__(
        self,
        store: Store,
        annotations: Sequence[Annotation],
        *,
        classes: Sequence[str],
        transform: Callable[..., Any] | None = None,
    ) -> None:
        self.store = store
        self.annotations = tuple(annotations)
        self.labels = {name: number for number, name in enumerate(classes, start=1)}
        self.transform = transform

    def __len__(self) -> int:
        return len(self.annotations)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Tensor]]:
        annotation = self.annotations[index]
        picture = read_rgb(self.store, annotation.picture)
        boxed = import_extra("torchvision.tv_tensors", "train").BoundingBoxes
        corners = torch.tensor([each.box for each in annotation.objects], dtype=torch.float32)
        labels = [self.labels[each.name] for each in annotation.objects]
        target = {
            "boxes": boxed(corners.view(-1, 4), format="XYXY", canvas_size=picture.size[::-1]),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "difficult": torch.tensor([o.difficult for o in annotation.objects], dtype=torch.bool),
        }
        return (picture, target) if self.transform is None else self.transform(picture, target)


def collate(
    samples: Sequence[tuple[Tensor, dict[str, Tensor]]],
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Make a batch: pictures [n, 3, height, width] and the list of their targets."""
    pictures, targets = zip(*samples, strict=True)
    plain = [{name: value.as_subclass(Tensor) for name, value in t.items()} for t in targets]
    return torch.stack([picture.as_subclass(Tensor) for picture in pictures]), plain


def open_voc(path: Path, *, train: str | None = None, judged: str | None = None) -> VocData:
    """Read which pictures there are and what is on them; decode none.

    Args:
        path: A folder or a zip with one root, or with one for each year, at any depth.
        train: `SPLIT` of all roots, or `YEARS:SPLIT` of some: `2007+2012:trainval`. None:
            `trainval` where it exists and there is a `test` to judge with, else `train`, of all
            roots that have it.
        judged: The same to judge with. None: `test`, else `val`.

    Raises:
        DataError: If there is no such root, split, picture or annotation, if a split is empty, if
            pictures are in both, or if two roots are of one year.
    """
    store = open_store(Path(path))
    roots = _Roots(store)
    judged = judged or roots.first("test", "val")
    both = ("trainval", "train") if judged.endswith("test") else ("train",)
    train = train or roots.first(*both)
    read = {name: tuple(roots.annotations(name)) for name in (train, judged)}
    common = {each.picture for each in read[train]} & {each.picture for each in read[judged]}
    if common:
        raise DataError(
            f"{len(common)} pictures of {path} are both in {train}, to train on, and in {judged}, "
            f"to judge with ({listed(sorted(common), most=2)}): choose splits that share none"
        )
    used = {each.name for part in read.values() for picture in part for each in picture.objects}
    if not used:
        raise DataError(f"{path} has no object in {train} or {judged}")
    names = used | roots.other_classes()
    is_voc = names <= set(VOC_CLASSES)
    classes = VOC_CLASSES if is_voc else tuple(sorted(names))
    return VocData(store, classes, read[train], read[judged], train, judged)


class _Roots:
    """The roots in a store, by year; a root whose name holds no year goes by its name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, dict[str, str]] = {}
        self._splits: dict[str, dict[str, str]] = {}
        self._folders: dict[str, str] = {}
        self._read: set[str] = set()
        for name in store.names():
            self._note(name)
        if not self._splits:
            raise DataError(
                f"{store.path} has no folder ImageSets/Main with a list of pictures such as "
                f"trainval.txt: VOC's layout has that beside Annotations/ and JPEGImages/"
            )

    def _note(self, name: str) -> None:
        found = re.fullmatch(r"(.*/)?(ImageSets/Main|JPEGImages|Annotations)/([^/]+)", name)
        if found is None or found[3].startswith("."):
            return
        root, stem = _year(found[1] or ""), Path(found[3]).stem
        folder = self._folders.setdefault(root, found[1] or "")
        if folder != (found[1] or ""):
            raise DataError(
                f"{self._store.path} has two roots of one name, {folder} and {found[1]}: "
                f"name a folder with one of them"
            )
        if found[2] == "ImageSets/Main":
            self._splits.setdefault(root, {})[stem] = name
        elif found[2] == "Annotations" or found[3].lower().endswith(EXTENSIONS):
            self._files.setdefault(root, {})[f"{found[2]}/{stem}"] = name

    def first(self, *splits: str) -> str:
        """Give the first of these splits that a root has, with the years that have it."""
        for split in splits:
            years = [year for year, lists in sorted(self._splits.items()) if split in lists]
            if years:
                return split if len(self._splits) == 1 else f"{'+'.join(years)}:{split}"
        there = Counter(split for lists in self._splits.values() for split in lists)
        raise DataError(
            f"{self._store.path} has none of the lists {' or '.join(splits)} in ImageSets/Main, "
            f"only {listed(sorted(there))}: name the one to use"
        )

    def annotations(self, name: str) -> Iterator[Annotation]:
        """Read the annotations of `YEARS:SPLIT`."""
        years, _, split = name.rpartition(":")
        for year in years.split("+") if years else sorted(self._splits):
            lists = self._splits.get(year, {})
            if split not in lists:
                has = {y: sorted(s) for y, s in self._splits.items()}
                raise DataError(
                    f"{self._store.path} has no split {split!r} of {year or 'its one root'}: "
                    f"{'; '.join(f'{y} has {listed(s)}' for y, s in sorted(has.items()))}"
                )
            ids = self._store.read(lists[split]).decode("utf-8-sig").split("\n")
            yield from self._of_root(year, [line.split()[0] for line in ids if line.strip()], name)

    def _of_root(self, year: str, ids: Sequence[str], name: str) -> Iterator[Annotation]:
        if not ids:
            raise DataError(f"{self._store.path}: the list {name} is empty for {year}")
        files: Mapping[str, str] = self._files.get(year, {})
        for each in ids:
            picture, file = files.get(f"JPEGImages/{each}"), files.get(f"Annotations/{each}")
            if picture is None or file is None:
                what = "picture in JPEGImages/" if picture is None else "annotation in Annotations/"
                raise DataError(f"{self._store.path}: {each} of {name} has no {what}")
            self._read.add(file)
            yield read_annotation(self._store, file, picture=picture)

    def other_classes(self) -> set[str]:
        """Name the classes of the annotations that were not read; of damaged ones none."""
        files = (file for files in self._files.values() for file in files.values())
        found: set[str] = set()
        for file in files:
            if file.endswith(".xml") and file not in self._read:
                with suppress(DataError):
                    objects = read_annotation(self._store, file, picture="").objects
                    found.update(each.name for each in objects)
        return found


def _year(root: str) -> str:
    folder = root.rstrip("/").rpartition("/")[2]
    found = re.fullmatch(r"VOC(\d{4})", folder)
    return found[1] if found else folder


def told_dropped(names: Iterable[str]) -> str:
    """Say how many boxes were dropped, and in which pictures; empty for none."""
    listing = list(names)
    if not listing:
        return ""
    boxes = "1 box" if len(listing) == 1 else f"{len(listing)} boxes"
    pictures = listed(sorted({Path(name).name for name in listing}))
    return f"{boxes} without area dropped ({pictures})"
