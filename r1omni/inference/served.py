"""A registered model as MLflow loads and serves it: `predict`'s answers for a table of media.

MLmodel names this module as the loader of its python_function flavour. No pickle is read.
"""

import base64
import binascii
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from r1omni.inference.fetching import fetch
from r1omni.inference.options import PredictOptions, choose_options
from r1omni.lineage import caution, read_lineage
from r1omni.tracking.provenance import check_content

if TYPE_CHECKING:
    import pandas as pd

    from r1omni.inference.answer import Answer, ByReader
    from r1omni.inference.files import Refusal
    from r1omni.model.backbone import Backbone

MEDIA_ROOT: Final = "R1OMNI_MEDIA_ROOT"  # the folder below which `path` may name files
PARAMS_FILE: Final = "R1OMNI_PARAMS"  # where the options are from, instead of ./params.yaml
JUDGES_FOLDER: Final = "R1OMNI_JUDGES"  # where the reader and the judges are
BASE_FOLDER: Final = "R1OMNI_BASE"  # where an adapter's base is, if not where the adapter says

logger = logging.getLogger(__name__)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> "ServedModel":
    """MLflow's hook: the model in the folder `path`, which MLmodel describes.

    Options are those of `r1omni predict`: of the file that R1OMNI_PARAMS names, of ./params.yaml,
    or its defaults. Raises ValueError if the checkpoint's bytes are not those that were registered,
    and where the reader is to answer (`serve.answer`) but there are no judges.
    """
    params = os.environ.get(PARAMS_FILE)
    options = choose_options(Path(params) if params else None, False, {})
    options.set_threads()
    by = reader_of(options)
    from r1omni.inference.loading import load_checkpoint
    from r1omni.media.pool import start_forkserver

    start_forkserver()
    checkpoint = Path(path) / "checkpoint"
    check_content(path, checkpoint, (model_config or {}).get("content_hash"))
    if warning := caution(read_lineage(checkpoint)):
        logger.warning(warning)
    root, base = (os.environ.get(name) for name in (MEDIA_ROOT, BASE_FOLDER))
    backbone = load_checkpoint(checkpoint, device=options.device, base=Path(base) if base else None)
    return ServedModel(backbone, options, Path(root) if root else None, by)


def reader_of(options: PredictOptions) -> "ByReader | None":
    """Who answers, by `serve.answer`: the reader in the folder that R1OMNI_JUDGES names, or None.

    Raises ValueError where it is to answer but has no judges.
    """
    if options.serve.answer == "model":
        return None
    from r1omni.inference.answer import ByReader
    from r1omni.inference.judged import need_judges

    try:
        judges = need_judges(Path(os.environ.get(JUDGES_FOLDER, "data/judges")))
    except ValueError as error:
        raise ValueError(f"serve.answer: reader: {error}") from error
    return ByReader(judges, options.serve.samples, options.serve.temperature)


class ServedModel:
    """Answers tables with the columns `path` and `bytes` (base64); a row has one of them.

    A path names a file below `root`; without a root no path is taken. It may be a URL if
    `serve.url_schemes` of params has its scheme. Several threads may call `predict`.
    """

    def __init__(
        self,
        backbone: "Backbone",
        options: PredictOptions,
        root: Path | None,
        by: "ByReader | None" = None,
    ) -> None:
        from r1omni.inference.service import Service

        self._service = Service(backbone, options, by and by.beside(backbone))
        self._serve = options.serve
        self._root = root

    def predict(self, model_input: "pd.DataFrame") -> list[dict[str, Any]]:
        """One object per row, as `r1omni predict --json` prints it; `file` is the row's path."""
        rows = model_input.to_dict("records")
        with TemporaryDirectory(prefix="r1omni-") as folder:
            files = [self._file_of(row, i, Path(folder) / str(i)) for i, row in enumerate(rows)]
            outcomes = self._service.answer(files)
        return _records(rows, outcomes)

    def _file_of(self, row: dict[Any, Any], number: int, new: Path) -> "Path | Refusal":
        """The file of row `number`; its bytes, or those behind its URL, are written to `new`."""
        from r1omni.inference.files import Refusal

        if number >= self._serve.max_rows:
            return Refusal("", f"a request may have {self._serve.max_rows} rows (serve.max_rows)")
        path, encoded = row.get("path"), row.get("bytes")
        if isinstance(path, str) == isinstance(encoded, str):
            return Refusal("", "expected either path or bytes (base64), as text")
        if isinstance(path, str):
            try:
                return self._named_file(path, new)
            except ValueError as error:
                return Refusal(path, str(error))
        try:
            new.write_bytes(base64.b64decode(str(encoded), validate=True))
        except binascii.Error as error:
            return Refusal("", f"its bytes are not base64: {error}")
        return new

    def _named_file(self, path: str, new: Path) -> Path:
        """The file that `path` names, or `new` with the bytes behind it. Raises ValueError."""
        serve = self._serve
        if "://" not in path or not serve.url_schemes:
            return allowed_file(path, self._root)
        size, seconds = serve.max_body_mb * 2**20, serve.fetch_seconds
        fetch(path, new, schemes=serve.url_schemes, max_bytes=size, seconds=seconds)
        return new


def allowed_file(path: str, root: Path | None) -> Path:
    """The real path of a file below `root`; a relative `path` starts there.

    Raises ValueError without a root, for a URL, and for a path that leads out of the root, also
    through a symbolic link.
    """
    if "://" in path:
        raise ValueError("URLs are not fetched (serve.url_schemes): send the file's bytes")
    if root is None:
        raise ValueError(f"no path is taken: {MEDIA_ROOT} names no folder; send the file's bytes")
    if "\0" in path:
        raise ValueError("no path has a null character")
    real = Path(os.path.realpath(root / path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise ValueError(f"is not below {MEDIA_ROOT}")
    return real


def _records(
    rows: Sequence[dict[Any, Any]], outcomes: "Sequence[Answer | Refusal]"
) -> list[dict[str, Any]]:
    """The outcomes as JSON objects; `file` is what the client sent, or null for bytes."""
    return [
        {**json.loads(outcome.as_json()), "file": path if isinstance(path, str) else None}
        for outcome, row in zip(outcomes, rows, strict=True)
        for path in [row.get("path")]
    ]
