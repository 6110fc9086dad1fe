"""Parse language tags: BCP-47, FLORES (`zho_Hant`) and POSIX locales (`pt_BR.UTF-8`). Knows no language by name.

Source: RFC 5646 (BCP-47), section 2.1. Regions: CLDR (Babel 2.19), which has those of ISO 3166 and a few more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_REGION_LIST = (
    "AC AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ "
    "CA CC CD CF CG CH CI CK CL CM CN CO CP CQ CR CU CV CW CX CY CZ DE DG DJ DK DM DO DZ EA EC EE EG EH ER ES ET EU FI "
    "FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU IC ID IE IL IM IN IO IQ "
    "IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML "
    "MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS "
    "PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TA TC TD TF TG TH TJ TK "
    "TL TM TN TO TR TT TV TW TZ UA UG UK UM US UY UZ VA VC VE VG VI VN VU WF WS XK XX YE YT ZA ZM ZW"
)
_REGIONS = frozenset(_REGION_LIST.split())
"""Two-letter regions. EU, UK and XX (mBART) are no regions of CLDR, but in use."""

_POSIX_SCRIPTS = {"latin": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "arabic": "Arab"}


@dataclass(frozen=True, slots=True)
class Tag:
    """The subtags of a language tag; "" where it has none."""

    language: str  # lower case
    script: str = ""  # four letters, such as Hant
    region: str = ""  # two capital letters or three digits
    variants: tuple[str, ...] = ()  # lower case
    others: tuple[str, ...] = ()  # extensions and private use, which say nothing about the language


def parse(text: str) -> Tag | None:
    """Parse a tag; None if the text is not one, or names a region that does not exist.

    An extended language (`zh-yue`) replaces the language before it.
    """
    plain, _, modifier = text.strip().partition("@")
    plain = re.sub(r"\.[A-Za-z0-9-]+$", "", plain)  # the character set of a POSIX locale
    subtags = plain.replace("_", "-").split("-")
    if not re.fullmatch(r"[A-Za-z]{2,8}", subtags[0]) or not all(
        re.fullmatch(r"[A-Za-z0-9]{1,8}", subtag) for subtag in subtags
    ):
        return None
    language, rest = subtags[0].lower(), subtags[1:]
    script, region = _POSIX_SCRIPTS.get(modifier.lower(), ""), ""
    if rest and re.fullmatch(r"[A-Za-z]{3}", rest[0]):
        language = rest.pop(0).lower()
        if rest and re.fullmatch(r"[A-Za-z]{3}", rest[0]):  # zh-min-nan
            language = rest.pop(0).lower()
    if rest and re.fullmatch(r"[A-Za-z]{4}", rest[0]):
        script = rest.pop(0).title()
    if rest and re.fullmatch(r"[A-Za-z]{2}|[0-9]{3}", rest[0]):
        region = rest.pop(0).upper()
        if not region.isdigit() and region not in _REGIONS and region != language.upper():
            return None
    variants = []
    while rest and re.fullmatch(r"[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}", rest[0]):
        variants.append(rest.pop(0).lower())
    if rest and len(rest[0]) > 1:
        return None
    return Tag(language, script, region, tuple(variants), tuple(rest))
