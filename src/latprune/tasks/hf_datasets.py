"""Classification pictures from Hugging Face's `datasets`: from the hub, from a disk, or at hand.

`datasets` finds, downloads and keeps them; what is made of them is `ImageData` like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latprune.errors import DataError, import_extra
from latprune.tasks.data import HUGGING_FACE, ImageData, Picture, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}
OPTIONS = ("config", "image", "label")
NOT_LABELLED = (-1, None)


def open_dataset(address: str) -> ImageData:
    """Load a data set and find its pictures and labels.

    Args:
        address: `hf:NAME` on the hub, or `hf:FOLDER` as `save_to_disk` wrote it or as
            `load_dataset` reads it; then, where they do not follow from the data set, its
            configuration and columns: `hf:NAME,config=…,image=…,label=…`.

    Raises:
        DataError: If it cannot be loaded, or as for `images_of`.
        MissingExtra: If `datasets` is not installed.
    """
    name, *options = address.removeprefix(HUGGING_FACE).split(",")
    if not name:
        raise DataError(f"{address} names no data set: write hf:uoft-cs/cifar10, or hf:FOLDER")
    given = dict(option.partition("=")[::2] for option in options)
    if unknown := given.keys() - set(OPTIONS):
        raise DataError(
            f"{address} has {listed(sorted(unknown))}: after the name it takes "
            f"{', '.join(f'{option}=' for option in OPTIONS)}"
        )
    splits = _loaded(address, name, given.pop("config", None))
    return images_of(splits, said=address, **given)


def images_of(
    splits: Mapping[str, Any],
    *,
    image: str | None = None,
    label: str | None = None,
    said: str = "the data set",
) -> ImageData:
    """Give data sets that are at hand as labelled pictures.

    Args:
        splits: A `datasets.Dataset` by the name of its split, as a `DatasetDict` is: `train`,
            `test`, `validation`; those of other names, and those without any labels (-1 or None in
            every row), are left out.
        image: The column of pictures; None for the only one that there is.
        label: The column of class labels; None for the only one that there is.
        said: What errors call it.

    Raises:
        DataError: If there is no such split or column, several columns could be meant, splits have
            other classes, or only some rows of a split have labels.
    """
    chosen = {SPLITS[name]: rows for name, rows in splits.items() if name in SPLITS and len(rows)}
    if not chosen:
        raise DataError(
            f"{said} has no split {listed(SPLITS)} with pictures; found {listed(splits) or 'none'}"
        )
    features = next(iter(chosen.values())).features
    image = _column(said, features, "Image", "image", asked=image)
    label = _column(said, features, "ClassLabel", "label", asked=label)
    classes = tuple(features[label].names)
    encoded, pictures = {}, {}
    for split, rows in chosen.items():
        if rows.features != features:
            raise DataError(f"{said}: the split {split} has other columns or classes than others")
        labels = list(rows.with_format(None)[label])
        if _is_labelled(f"{said}: the split {split}", labels):
            encoded[split] = _encoded(rows, image)
            pictures[split] = tuple(_by_class(split, labels))
    return ImageData(_Rows(Path(said), encoded, image), classes, pictures)


class _Rows:
    """Pictures by `split/row`, as bytes of whatever format they were kept in."""

    def __init__(self, path: Path, splits: Mapping[str, Any], image: str) -> None:
        self.path = path
        self._splits, self._image = splits, image

    def names(self) -> Iterable[str]:
        """Give all names."""
        return (
            f"{split}/{row}" for split, rows in self._splits.items() for row in range(len(rows))
        )

    def read(self, name: str) -> bytes:
        """Give a picture's file."""
        split, _, row = name.partition("/")
        found = self._splits[split][int(row)][self._image]
        content: bytes | None = found["bytes"]
        return Path(found["path"]).read_bytes() if content is None else content


def _loaded(address: str, name: str, config: str | None) -> Mapping[str, Any]:
    datasets = import_extra("datasets", "datasets")
    saved = Path(name) / "dataset_dict.json"
    try:
        found: Mapping[str, Any] = (
            datasets.load_from_disk(name)
            if saved.is_file()
            else datasets.load_dataset(name, config)
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{address} cannot be loaded: {type(error).__name__}: {reason}") from error
    return found


def _column(
    said: str, features: Mapping[str, Any], kind: str, option: str, *, asked: str | None
) -> str:
    """Find the column of a kind."""
    there = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if asked is None and len(there) == 1:
        return there[0]
    if asked is not None and asked in there:
        return asked
    columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    wanted = f"no column {asked!r} of type {kind}" if asked else f"{len(there)} columns of {kind}"
    remedy = f"name one by {option}=" if there else f"cast one to datasets.{kind}"
    raise DataError(f"{said} has {wanted}, among {columns}: {remedy}")


def _is_labelled(split: str, labels: Sequence[int | None]) -> bool:
    """Whether rows have labels: all of them, or none."""
    without = [row for row, label in enumerate(labels) if label in NOT_LABELLED]
    if without and len(without) < len(labels):
        raise DataError(
            f"{split} has no label in {len(without)} of {len(labels)} rows, the first is row "
            f"{without[0]}: leave these out, as `dataset.filter` does"
        )
    return not without


def _encoded(rows: Any, image: str) -> Any:
    """Leave pictures as they were stored, for `read_rgb` to decode."""
    feature = import_extra("datasets", "datasets").Image(decode=False)
    return rows.with_format(None).select_columns([image]).cast_column(image, feature)


def _by_class(split: str, labels: Iterable[int]) -> list[Picture]:
    """Order by class, and within one as they come."""
    found = [Picture(f"{split}/{row}", label) for row, label in enumerate(labels)]
    return sorted(found, key=lambda picture: picture.label)
