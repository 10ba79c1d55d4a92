"""Reading one file from a path or URL, light enough for commands that only compare fingerprints."""

from __future__ import annotations

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import Store


def read_file(path: str, what: str = "the model") -> bytes:
    """The bytes of a file at a path or URL; errors call it `what`.

    Raises:
        UserError: it is missing, a folder, or cannot be read.
    """
    folder, slash, name = path.rpartition("/")
    try:
        return Store.at(folder + slash or ".").read(name)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist", fix="check the path") from None
    except IsADirectoryError:
        raise UserError(f"{what} {path} is a folder", fix="name the file inside it") from None
    except OSError as e:
        raise UserError(f"{what} {path} cannot be read: {e}", fix="check the path and its rights") from None
