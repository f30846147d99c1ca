"""MAFW's compound lists: clips with several emotions (Liu et al. 2022, arXiv 2208.00847)."""

from dataclasses import replace
from typing import Final

from r1omni.corpora.known.mafw import CORPUS as MAFW
from r1omni.corpora.known.mafw import read_compound_rows

CORPUS: Final = replace(
    MAFW,
    name="mafw_compound",
    title="MAFW compound",
    about="MAFW with compound emotions: 11 single and 32 compound labels",
    layout="data/clips/00025.mp4 and Train & Test Set/compound/no_caption/set_{1..5}/"
    "{train,test}.txt",
    read_rows=read_compound_rows,
    compound=True,
    folds_rows=(),
)
