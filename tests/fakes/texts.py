"""Texts in many encodings: a few lines of each script, with what is difficult in its encodings."""

from __future__ import annotations

LATIN = ("Été à l’hôtel", "prix : 5 €", "“ok”, said Zoë")
CENTRAL = ("Zażółć gęślą jaźń", "Příliš žluťoučký kůň", "Łódź")
TURKISH = ("İstanbul'da yağmur", "ığdır soğuk", "Çarşamba")
CYRILLIC = ("Дождь в Афинах", "ёлка", "Солнечно, +5")
GREEK = ("Βροχή στην Αθήνα", "ήλιος")
HEBREW = ("גשם באתונה", "שמש")
ARABIC = ("مطر في أثينا", "شمس")
THAI = ("ฝนตกหนัก", "แดดจัด 30")
JAPANESE = ("表示ソフト能力", "ｶﾀｶﾅ", "東京は雨、大阪は晴れ。")  # second bytes 0x5C in Shift-JIS; half-width katakana
KANJI = ("表示ソフト能力", "東京は雨、大阪は晴れ。")
SIMPLIFIED = ("雅典周六有大雨。", "气温下降，东北有雪", "一丁七")
RARE = ("雅典周六有大雨。", "㐀𠀀𠮷", "é ‰ ₠")  # four bytes each in GB18030
TRADITIONAL = ("功許蓋餐", "臺北有雨。", "氣溫下降")  # second bytes 0x5C in Big5
KOREAN = ("아테네에 비가 옵니다", "서울은 맑음")
HANGUL = ("똠방각하", "펲시콜라")  # not in EUC-KR, in its extension cp949
EVERY = (*CYRILLIC, *ARABIC, *JAPANESE, "ਅਕ ગુજ", "𠮷野家 😀", "ሀ가一　")

SAMPLES: dict[str, tuple[str, ...]] = {
    "utf-16-le": EVERY,
    "utf-16-be": EVERY,
    "utf-16": EVERY,
    "utf-32-le": EVERY,
    "utf-32-be": EVERY,
    "utf-7": EVERY,
    "cp1252": LATIN,
    "latin-1": ("Été à l'hôtel", "Zoë"),
    "iso-8859-15": ("Été", "5 €", "cœur"),
    "mac-roman": LATIN,
    "cp1250": CENTRAL,
    "iso-8859-2": CENTRAL,
    "cp1254": TURKISH,
    "cp1251": CYRILLIC,
    "koi8-r": CYRILLIC,
    "cp866": CYRILLIC,
    "iso-8859-5": CYRILLIC,
    "cp1253": GREEK,
    "iso-8859-7": GREEK,
    "cp1255": HEBREW,
    "iso-8859-8": HEBREW,
    "cp1256": ARABIC,
    "iso-8859-6": ARABIC,
    "tis-620": THAI,
    "cp874": THAI,
    "shift-jis": JAPANESE,
    "cp932": (*JAPANESE, "①～髙"),
    "euc-jp": JAPANESE,
    "iso-2022-jp": KANJI,
    "gb2312": ("雅典周六有大雨。", "气温下降"),
    "gbk": SIMPLIFIED,
    "gb18030": RARE,
    "hz": ("雅典周六有大雨。", "a~b", "气温下降"),
    "big5": TRADITIONAL,
    "big5-hkscs": (*TRADITIONAL, "嘅咗"),
    "euc-kr": KOREAN,
    "cp949": (*KOREAN, *HANGUL),
    "johab": (*KOREAN, *HANGUL),
    "iso-2022-kr": KOREAN,
    "cp037": ("Été à l'hôtel", "Zoë"),
}
"""Encoding -> lines that it can hold."""
