"""The registry: each module of this folder holds the record of the corpus that it is named after.

A module that is put here is found by its name; nothing else lists it.
"""

from importlib import import_module
from pkgutil import iter_modules

from r1omni.config import CorpusParams
from r1omni.corpora.ingestion.lists import CorpusError
from r1omni.corpora.record import Corpus
from r1omni.corpora.table import TABLE, table_corpus


def known_names() -> tuple[str, ...]:
    """The corpora that have a module, by name. No module is imported for it."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def find_corpus(name: str) -> Corpus:
    """The record of the corpus `name`, or of any table. Raises CorpusError for an unknown name."""
    if name == TABLE:
        return table_corpus(TABLE)
    if name not in known_names():
        known = ", ".join((*known_names(), TABLE))
        raise CorpusError(f"unknown corpus {name!r}; known: {known}")
    corpus = import_module(f"{__name__}.{name}").CORPUS
    assert isinstance(corpus, Corpus) and corpus.name == name, f"{__name__}.{name}.CORPUS"
    return corpus


def listed_corpus(key: str, entry: CorpusParams) -> Corpus:
    """The record of the entry `corpora.key` of params. Raises CorpusError as `find_corpus` does."""
    return table_corpus(key, entry.labels) if entry.adapter == TABLE else find_corpus(entry.adapter)
