"""Tables of a published data set: a folder of parquet files on this disk, or a repository of the hub by its name.

A repository is fetched config by config as files, so both are read alike. Images stay as the published bytes until
:func:`decode_image` decodes one.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mllmu.core.errors import DataError
from mllmu.core.names import is_hub_name
from mllmu.data.files import read_image

SCHEMA_ADVICE = "Expected the published schema; download the data set again."
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_POINTER = b"version https://git-lfs"


class Table:
    """The rows of one config, read from all of its shards; ``where(n)`` names a row in messages."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self._shards = [(path, _open(path)) for path in _complete(name, paths)]
        self.columns = tuple(self._shards[0][1].schema_arrow.names)
        self._last: dict[str, tuple[tuple[Path, int], list[Any]]] = {}

    def where(self, row: int) -> str:
        return f"{self.name}: row {row}"

    def need(self, columns: Sequence[str], hint: str = "") -> None:
        """Raise DataError unless the table has these columns."""
        missing = [column for column in columns if column not in self.columns]
        if missing:
            raise DataError(
                f"{self.name}: no column '{missing[0]}'; it has {', '.join(self.columns)}. {hint or SCHEMA_ADVICE}"
            )

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows in order, with these columns only."""
        for path, file in self._shards:
            with _readable(path):
                rows: list[dict[str, Any]] = file.read(list(columns)).to_pylist()
            yield from rows

    def cell(self, row: int, column: str) -> Any:
        """One cell; cheap if cells are asked in the order of the rows."""
        first = 0
        for path, file in self._shards:
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if row < first + count:
                    return self._group(path, file, group, column)[row - first]
                first += count
        raise IndexError(row)

    def image(self, row: int, column: str, item: int | None = None) -> Image.Image:
        """Decode the image in a cell, or one of the list of images in a cell."""
        cell, where = self.cell(row, column), f"{self.where(row)}, {column}"
        folder = self._shards[0][0].parent
        if item is None:
            return decode_image(cell, where, (folder, folder.parent))
        if item >= len(cell or ()):
            raise DataError(f"{where}: the row has {len(cell or ())} images, asked for index {item}.")
        return decode_image(cell[item], f"{where}[{item}]", (folder, folder.parent))

    def _group(self, path: Path, file: Any, group: int, column: str) -> list[Any]:
        """A column of a row group; the last one read is kept, so images asked in order are read once."""
        if self._last.get(column, (None,))[0] != (path, group):
            with _readable(path):
                cells = file.read_row_group(group, [column]).column(column).to_pylist()
            self._last[column] = (path, group), cells
        return self._last[column][1]


class Store:
    """A data set: a local folder with a folder per config, or a hub repository ``owner/name``.

    Args:
        path: the folder, or the name of the repository.
        revision: commit, tag or branch on the hub; None for the newest.

    Raises:
        DataError: neither a folder nor a possible name of a repository.
    """

    def __init__(self, path: Path, revision: str | None = None) -> None:
        self.path = path
        self.revision = revision
        self.on_hub = is_hub_name(path)
        if not self.on_hub and not path.is_dir():
            raise DataError(
                f"{path}: no such folder. Expected a folder with one folder of parquet files per config, or the name "
                "of a hub repository such as MLLMMU/MLLMU-Bench."
            )

    @cached_property
    def configs(self) -> list[str]:
        """Names of the configs, sorted; the hub is asked once."""
        files = _hub_files(self.path, self.revision) if self.on_hub else list(self.path.glob("*/*.parquet"))
        return sorted({file.parent.name for file in files if file.suffix == ".parquet" and file.parent.name})

    def need(self, configs: Sequence[str], hint: str) -> None:
        """Raise DataError unless the data set has these configs; ``hint`` says what was expected."""
        here = self.configs
        if missing := [config for config in configs if config not in here]:
            raise DataError(
                f"{self.path.as_posix()}: no config {', '.join(missing)}; it has {', '.join(here) or 'none'}. {hint}"
            )

    def table(self, config: str, part: str = "train") -> Table:
        """Open one part of one config; files without the name of a part are all taken for ``train``."""
        folder = downloaded(self.path, self.revision, patterns=[f"{config}/*.parquet"]) / config
        return self._open(str(self.path / config), folder, part)

    def single(self, part: str) -> Table:
        """Open a data set without configs: the parquet files of the folder itself, or of ``data`` in it."""
        folder = downloaded(self.path, self.revision, patterns=["*.parquet"])
        here = next((name for name in (".", "data") if any((folder / name).glob("*.parquet"))), ".")
        return self._open(str(self.path / here), folder / here, part)

    def _open(self, name: str, folder: Path, part: str) -> Table:
        named, every = sorted(folder.glob(f"{part}-*.parquet")), sorted(folder.glob("*.parquet"))
        return Table(name, named or (every if part == "train" else []))


def downloaded(path: Path, revision: str | None = None, *, patterns: Sequence[str], kind: str = "dataset") -> Path:
    """The folder of a repository: a local one as it is, one of the hub fetched as files."""
    if not is_hub_name(path):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(path.as_posix(), repo_type=kind, revision=revision, allow_patterns=list(patterns))
        )
    except (OSError, ValueError) as error:  # not found, gated, or no network and nothing fetched earlier
        raise _not_given(path, error) from None


def _hub_files(path: Path, revision: str | None) -> list[Path]:
    """The files of a data set on the hub; those that were fetched earlier where the hub cannot or must not be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return list(map(Path, HfApi().list_repo_files(path.as_posix(), repo_type="dataset", revision=revision)))
    except OfflineModeIsEnabled:
        pass
    except (OSError, ValueError) as error:  # the hub's answer: not found, gated
        raise _not_given(path, error) from None
    except Exception:  # noqa: BLE001, S110 - no network, in a class of the hub's own HTTP library
        pass
    return list(downloaded(path, revision, patterns=[]).glob("*/*.parquet"))


def _not_given(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path.as_posix()}: neither a folder here nor a data set that the hub gives: "
        f"{' '.join(str(error).split())[:300]}. Check the name and the network, or name a local copy."
    )


def _complete(name: str, paths: Sequence[Path]) -> list[Path]:
    """All shards in order; a missing one, or none at all, is an error."""
    if not paths:
        raise DataError(f"{name}: no parquet file. Download the data set again, or name the folder that has it.")
    numbers = {int(match[1]): int(match[2]) for path in paths if (match := _SHARD.search(path.stem))}
    wanted = max(numbers.values(), default=len(paths))
    missing = sorted(set(range(wanted)) - numbers.keys()) if numbers else []
    if missing or len(paths) != wanted:
        lost = f"shard {missing[0]:05d} of {wanted} is missing" if missing else "files of two downloads are mixed"
        raise DataError(
            f"{name}: {lost}; it has {', '.join(path.name for path in paths)}. Download the data set again."
        )
    return list(paths)


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise DataError(f"{path}: a git-lfs pointer, not the data. Run 'git lfs pull' in the clone.")
    with _readable(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}). Download or export it again.") from None


def decode_image(cell: Any, where: str, folders: Sequence[Path] = ()) -> Image.Image:
    """Decode an image cell, ``{"bytes": ..., "path": ...}``, to RGB at its own size, see :func:`as_rgb`.

    Args:
        folders: where the file of a cell without bytes may be; its path leads out of none of them.

    Raises:
        DataError: no image, not a readable one, or more than 50 million pixels.
    """
    data, named = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    fault, advice = "the image cannot be decoded", "download the file again."
    if isinstance(data, bytes) and data:
        return read_image(io.BytesIO(data), where, fault=fault, advice=advice)
    if not isinstance(named, str) or not named:
        raise DataError(f"{where}: the row has no image. Expected one; download the data set again, images included.")
    for folder in folders:
        file = (folder / named).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():
            return read_image(file, f"{where} ({file})", fault=fault, advice=advice)
    beside = f", and there is no such file below {folders[-1]}" if folders else ""
    raise DataError(
        f"{where}: the table holds the path {named!r} and no image{beside}. Put the images there, or download or "
        "export the data set again with the images inside."
    )
