"""Letters without which a language cannot be written, to tell whether an encoding can hold its translations.

Only letters that texts of the language cannot avoid: an encoding may lack others (œ in ISO-8859-1 for French), and then
single rows cannot be written.
"""

from __future__ import annotations

from hymt_batch.formats.output_stream import unencodable_character

LETTERS = {
    "zh": "的一是了不在人有我他这们说国",
    "en": "abcxyz",
    "fr": "éèàçê",
    "pt": "ãçéõá",
    "es": "ñáéí",
    "ja": "あいうアイウ日本語",
    "tr": "ğışçü",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "ko": "가나다라마은는을를이",
    "th": "กขคงจชดตนบปมยรลวสห",
    "it": "àèéìòù",
    "de": "äöüß",
    "vi": "ăâđêôơưếạộ",
    "ms": "abcxyz",
    "id": "abcxyz",
    "tl": "abcxyz",
    "hi": "अआकखगिी",
    "zh-Hant": "的一是了不在人有我他這們說國",
    "pl": "ąćęłńóśźż",
    "cs": "ěščřžýáíéů",
    "nl": "abcxyz",
    "km": "កខគឃង",
    "my": "ကခဂဃင",
    "fa": "ابپتجچحخدذرزژسشفقکگلمنوهی",
    "gu": "અઆકખગ",
    "ur": "ابپتٹجچدڈرڑکگلمنںوہی",
    "te": "అఆకఖగ",
    "mr": "अआकखगळ",
    "he": "אבגדהוזחטיכלמנסעפצקרשת",
    "bn": "অআকখগ",
    "ta": "அஆகஙச",
    "uk": "абвгєіїйклмнопрстуфхцчшщьюя",
    "bo": "ཀཁགང་",
    "kk": "әғқңөұүһі",
    "mn": "абвгөүэ",
    "ug": "ئاەبپتجچخدرزژسشغفقكگڭلمنھوۇۆۈۋېىي",
    "yue": "的一係唔佢喺我哋",
}
"""Code of a language -> its letters."""


def missing_letter(code: str, encoding: str) -> str:
    """Return a letter of a language that an encoding does not have; "" if it has all of them."""
    return unencodable_character(LETTERS[code], encoding)
