"""Words that a model adds to a translation: an introduction, a note, or those of its prompt. Patterns only.

Source: answers in the issues of the HY-MT repositories and in arXiv 2604.15165, and the prompts of the model cards; the
words in other languages are translations of these.
"""

from __future__ import annotations

import re

_COLON = r"\s?[:：]"
_TRANSLATION = (
    r"(?:the )?(?:(?:\w+ ){0,2})?translation(?: (?:of|in|into|to|is)(?: [\w’']+){1,6})?"
    r"|translated(?: (?:text|segment|version))?"
    r"|traduction|übersetzung|traducción|tradução|traduzione|перевод|переклад|vertaling|tłumaczenie|překlad|çeviri"
    r"|bản dịch|terjemahan|salin|译文|译文如下|翻译|翻译如下|翻译结果|譯文|翻譯|翻譯如下|翻譯結果"
    r"|訳文|翻訳|翻訳文|번역|번역문"
    r"|الترجمة|ترجمة|ترجمه|คำแปล|การแปล|अनुवाद|অনুবাদ|תרגום"
)
_INTRODUCTION = re.compile(
    rf"\W{{0,3}}(?:(?:{_TRANSLATION}){_COLON}"
    r"|(?:sure|certainly|of course|okay)[,!.:] (?:here|the|i)\b"
    r"|here(?:['’]s| is| are) (?:the|a|an|your|my) (?:[\w-]+ ){0,3}(?:translat\w+|version)\b"
    r"|i (?:have translated|will translate|cannot translate|can['’]t translate)\b|as an ai\b"
    r"|以下(?:是|为|為).{0,12}(?:译文|翻译|譯文|翻譯)|以下(?:は|が).{0,20}(?:訳|翻訳)(?:です|文)"
    r"|(?:voici|hier ist|hier die|aquí está|ecco) (?:la |une |die |eine |una )?"
    r"(?:traduction|übersetzung|traducción|traduzione)\b"
    r"|إليك الترجمة|هذه ترجمة|นี่คือคำแปล|นี่คือการแปล)",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"(?:^|[\n(（\[【*])\s?(?:(?:translator['’]?s? )?notes?|explanation|remarque|note du traducteur|hinweis|anmerkung"
    r"|note de traduction|nota|примечание|注|注意|注释|註|註釋|译注|譯註|译者注|说明|說明|解释|備註|备注|注記|訳注|補足"
    rf"|ملاحظة|ملحوظة|หมายเหตุ|참고|주|lưu ý|ghi chú|catatan){_COLON}",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"translate the (?:following|user-facing)|without (?:any )?additional explanation"
    r"|output the (?:translated result|refined translation)"
    r"|accurately translate the|strict rules\s*\n|source_text|</?(?:source|target)>"
    r"|(?:将|把)以?下(?:面的|列)?文本.{0,12}翻译|不要额外解释|只需要输出翻译后的结果|必须在译文中保留"
    r"|übersetzen sie (?:den|das|die) folgende|traduis(?:ez)? (?:le|la) (?:\w+ )?suivant"
    r"|次の(?:文章|テキスト|セグメント|文)を.{0,12}翻訳|ترجم (?:النص|المقطع) التالي|แปลข้อความ(?:ต่อไปนี้|ด้านล่าง)",
    re.IGNORECASE,
)
_MAY_BE_NOTE = re.compile(
    r"\b(?:note|notes|notice|hint|remark|explanation|caution|tip|n\.?b\.?|p\.?s)\b\s?[:：]|translat|" + _NOTE.pattern,
    re.IGNORECASE,
)
_MAX_CHARS = 20_000


def has_leak(translation: str) -> bool:
    """Return whether a translation begins as an answer does, or has a note or the words of a prompt."""
    text = translation[:_MAX_CHARS]
    return bool(_INTRODUCTION.match(text) or _NOTE.search(text) or _PROMPT.search(text))


def may_have_note(source: str) -> bool:
    """Return whether a source has such words itself, so that its translation may have them."""
    text = source[:_MAX_CHARS]
    return bool(_MAY_BE_NOTE.search(text) or _INTRODUCTION.match(text) or _PROMPT.search(text))
