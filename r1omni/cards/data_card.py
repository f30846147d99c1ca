"""The data card: Croissant 1.1 (MLCommons' JSON-LD) with its RAI vocabulary, from the manifest.

Sources: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and, for `rai:`,
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from r1omni.cards import uses
from r1omni.cards.facts import CorpusFacts
from r1omni.lineage import Origin

CONFORMS_TO: Final = (
    "http://mlcommons.org/croissant/1.1",
    "http://mlcommons.org/croissant/RAI/1.0",
)
_CR: Final = {
    "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
    "fileProperty", "fileSet", "format", "includes", "isArray", "arrayShape", "isLiveDataset",
    "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
}  # fmt: skip
CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in sorted(_CR)},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
COLUMNS: Final[Mapping[str, str]] = {
    "clip_id": "the clip's name, unique in all corpora",
    "path": "the file, relative to the corpus's root",
    "sha256": "SHA-256 of the file; of a segment, of the file's and of its times",
    "label": "emotion, in canonical spelling",
    "soft_label": "share of the annotators' votes for each emotion",
    "split": "train or test",
    "fold": "the corpus's official partition",
    "subject": "the person or film that must not stand in two splits",
    "rationale": "the text of a reasoned clip",
    "duration": "seconds of video",
    "fps": "frames a second",
    "n_frames": "number of frames",
    "has_audio": "whether there is sound",
    "audio_duration": "seconds of sound",
    "start": "of a segment: seconds from the file's first picture",
    "end": "of a segment: seconds from the file's first picture",
}


def data_card(corpus: CorpusFacts, rules: str) -> dict[str, Any]:
    """The corpus's card as a JSON-LD object. `rules`: what became of validation's rules.

    The manifest's address is relative to the card, which lies in data/cards/.
    """
    description, card = _describe(corpus), _rendered(corpus.origin)
    if corpus.origin.data != "synthetic":
        card = _recorded(corpus)
    rejects = ", ".join(f"{reason} {n}" for reason, n in corpus.rejects.items()) or "none"
    return {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "name": corpus.key,
        "description": description,
        "conformsTo": list(CONFORMS_TO),
        "version": f"1.0.0+{corpus.sha256[:12]}",
        "keywords": ["emotion recognition", "video", "audio", corpus.origin.data],
        "isLiveDataset": False,
        **card,
        "rai:dataPreprocessingProtocol": [
            "Every clip was opened and decoded in part. A clip that failed is rejected, with its "
            f"reason. Rejected: {rejects}.",
            rules,
        ],
        "rai:dataUseCases": [f"Here: {', '.join(corpus.roles)}.", uses.INTENDED],
        "rai:dataSocialImpact": " ".join((uses.PROHIBITED, uses.HIGH_RISK, uses.INFORM)),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "manifest",
                "name": "manifest",
                "description": "one clip a row; the clips themselves are not distributed",
                "contentUrl": f"../manifests/{corpus.manifest.name}",
                "contentSize": f"{corpus.manifest.stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": corpus.sha256,
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "clips",
                "name": "clips",
                "description": "one labelled clip",
                "key": {"@id": "clips/clip_id"},
                "field": [_field(name, kind) for name, kind in _columns(corpus) if name in COLUMNS],
            }
        ],
    }


def _describe(corpus: CorpusFacts) -> str:
    n_train, n_test = len(corpus.split("train")), len(corpus.split("test"))
    counts = f"{n_train:,} train and {n_test:,} test clips."
    if corpus.origin.data == "synthetic":
        return (
            "Rendered faces and synthesised voices, no people, in the file layout of "
            f"{corpus.record.title}. {counts}"
        )
    unknown = " Whether the clips are rendered is not recorded."
    return f"{corpus.record.about}. {counts}{unknown if corpus.origin.data == 'unknown' else ''}"


def _rendered(origin: Origin) -> dict[str, Any]:
    shortcut = "not recorded" if origin.shortcut is None else f"{origin.shortcut:g}"
    seed = "not recorded" if origin.seed is None else origin.seed
    return {
        "license": "not recorded",
        "creator": {"@type": "sc:Organization", "name": "r1omni synthesize"},
        "rai:dataCollection": f"Rendered by `r1omni synthesize` with seed {seed}.",
        "rai:dataCollectionType": ["Software Collection"],
        "rai:dataBiases": [
            "The chance that a clip's scene and speaker are its emotion's own (the shortcut) is "
            f"{shortcut}."
        ],
        "rai:dataLimitations": [
            "Numbers on rendered clips say whether a recipe works. They say nothing about people."
        ],
        "rai:personalSensitiveInformation": ["None: no person was recorded."],
    }


def _recorded(corpus: CorpusFacts) -> dict[str, Any]:
    ask = corpus.record.ask
    card: dict[str, Any] = {"license": ask or "not recorded"}
    if addresses := re.findall(r"https?://[^\s;,)]+", ask):
        card["url"] = addresses[0]
    return card | {
        "rai:dataCollection": f"By the corpus's holder; ask for a copy: {ask or 'not recorded'}.",
        "rai:dataCollectionType": ["Secondary Data analysis"],
        "rai:dataBiases": ["Not recorded here: see the corpus's paper."],
        "rai:dataLimitations": [uses.DOUBT],
        "rai:personalSensitiveInformation": [
            "Faces and voices of people, which are biometric data.",
            "Their consent is not recorded here: the holder's agreement says what they agreed to.",
        ],
    }


def _columns(corpus: CorpusFacts) -> list[tuple[str, str]]:
    """The manifest's columns, each with Croissant's type."""
    schema = pq.read_schema(corpus.manifest)
    return [(field.name, _type(field.type)) for field in schema]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _field(name: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"clips/{name}",
        "name": name,
        "description": COLUMNS[name],
        "dataType": kind,
        "source": {"fileObject": {"@id": "manifest"}, "extract": {"column": name}},
    }
