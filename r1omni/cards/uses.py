"""What emotion recognition may be used for, for cards and BOM: the EU AI Act in our words.

The Act: Regulation (EU) 2024/1689, as amended. Article 3(39) defines emotion recognition as
inferring emotions or intentions from biometric data, which faces and voices are.
"""

from typing import Final

ACT: Final = "Regulation (EU) 2024/1689 (AI Act)"
ACT_URL: Final = "https://eur-lex.europa.eu/eli/reg/2024/1689/oj"
INTENDED: Final = (
    "Research on omni-modal emotion recognition: to reproduce, question or extend the recipe of "
    "R1-Omni (arXiv 2503.05379)."
)
PROHIBITED: Final = (
    "Inferring the emotions of people at work or in education is prohibited, except for medical or "
    f"safety reasons: {ACT}, Article 5(1)(f)."
)
INFORM: Final = (
    "Whoever deploys emotion recognition elsewhere must inform the people who are exposed to it, "
    f"and process their personal data as the GDPR asks: {ACT}, Article 50(3), which has an "
    "exception for law enforcement."
)
HIGH_RISK: Final = (
    f"Where it is not prohibited, emotion recognition is listed as high-risk: {ACT}, Article 6(2) "
    "and Annex III, point 1(c). This checkpoint went through none of what the Act then asks for."
)
DOUBT: Final = (
    "A face or a voice shows no feeling for certain: expressions differ between cultures and "
    f"situations, and within one person ({ACT}, recital 44). An answer is a guess at what a clip "
    "shows."
)
SYNTHETIC: Final = (
    "Trained on rendered faces and voices only: its answers about real people mean nothing."
)
