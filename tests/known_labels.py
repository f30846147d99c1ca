"""The closed set of labels of each corpus that the paper tests on, and predictions' note of it."""

from r1omni.corpora.known import find_corpus
from r1omni.evaluation.predictions import TableMetadata

LABELS = {name: find_corpus(name).labels or () for name in ("dfew", "mafw", "ravdess")}
ABOUT = TableMetadata({}, None, labels=LABELS)
