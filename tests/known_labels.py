"""The closed set of labels of each corpus that the paper tests on."""

from r1omni.corpora.known import find_corpus

LABELS = {name: find_corpus(name).labels or () for name in ("dfew", "mafw", "ravdess")}
