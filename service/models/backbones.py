"""Frozen backbones in the folder of the settings, by name."""

from __future__ import annotations

from threading import Lock
from weakref import WeakValueDictionary

from bnp_online.backbone import Backbone, load_backbone
from bnp_online.errors import BackboneError

from ..settings import Settings

#: Backbones that models use, by what identifies the content of a file: models share the weights.
_open: WeakValueDictionary[tuple[str, int, int, int], Backbone] = WeakValueDictionary()
_lock = Lock()


def open_backbone(name: str, settings: Settings, sha256: str | None = None) -> Backbone:
    """Return a backbone of the folder.

    Parameters
    ----------
    name : str
        Name of the file. It has no folders (`ModelSpec.backbone`).
    settings : Settings
        Names the folder.
    sha256 : str, optional
        Digest that it must have.

    Raises
    ------
    BackboneError
        If the folder has no such file, or it is another one, or cannot be read. A link that leads out of the
        folder is no such file.
    """
    if settings.backbones is None:
        raise BackboneError("this server has no backbones: set BNP_BACKBONES to a folder of them")
    try:
        folder = settings.backbones.resolve(strict=True)
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder) or not path.is_file():
            raise BackboneError(f"{name} is not a file in the folder BNP_BACKBONES: use the name of a file")
        about = path.stat()
    except OSError as error:
        found = _names(settings)
        raise BackboneError(
            f"the folder BNP_BACKBONES has no file {name} ({error.strerror}): it has {found or 'none'}"
        ) from None
    key = str(path), about.st_ino, about.st_size, about.st_mtime_ns
    with _lock:
        backbone = _open.get(key)
        if backbone is None:
            backbone = _open[key] = load_backbone(path)
    if sha256 is not None:
        backbone.require(sha256)
    return backbone


def _names(settings: Settings) -> str:
    """Return the names of the first files of the folder."""
    try:
        names = sorted(each.name for each in (settings.backbones or settings.data_dir).iterdir())
    except OSError:
        return ""
    return ", ".join(names[:10])
