"""What is on one picture, as PASCAL VOC writes it down in XML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from latprune.errors import DataError

if TYPE_CHECKING:
    from latprune.tasks.data import Store

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Object:
    """One object on a picture.

    Attributes:
        name: Of its class.
        box: Left, top, right and bottom edge in pixels; the picture begins at 0.
        difficult: Whether finding it counts neither for nor against a detector.
    """

    name: str
    box: Box
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """One picture and what is on it.

    Attributes:
        picture: Its name in the store.
        objects: With boxes that have an area.
        dropped: How many boxes had none.
    """

    picture: str
    objects: tuple[Object, ...]
    dropped: int


def read_annotation(store: Store, name: str, *, picture: str) -> Annotation:
    """Read one XML file.

    VOC counts pixels from 1, and a box ends with the last pixel that it holds; here the first
    pixel's left edge is 0. A box whose last pixel does not lie beyond its first, in either
    direction, has no area and is dropped.

    Raises:
        DataError: If the file is no annotation; names it.
    """
    try:
        found = [
            _read_object(each) for each in ElementTree.fromstring(store.read(name)).iter("object")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{store.path}: {name} is no annotation of VOC's: {error}") from error
    objects = tuple(each for each in found if each is not None)
    return Annotation(picture, objects, dropped=len(found) - len(objects))


def _read_object(element: ElementTree.Element) -> Object | None:
    name, box = element.findtext("name"), element.find("bndbox")
    if not name or box is None:
        raise ValueError("an object has no name or no bndbox")
    edges = {edge: box.findtext(edge) for edge in ("xmin", "ymin", "xmax", "ymax")}
    left, top, right, bottom = (float(text or "nothing") for text in edges.values())
    if right <= left or bottom <= top:
        return None
    difficult = int(element.findtext("difficult") or 0) != 0
    return Object(name.strip(), (max(left - 1, 0.0), max(top - 1, 0.0), right, bottom), difficult)
