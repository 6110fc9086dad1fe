"""The table of the 38 languages that the models translate: codes, names, scripts. Data only.

Codes and English and Chinese names: language table of the HY-MT1.5 model card (33 languages and 5 minority languages or
dialects). Scripts and the first code of each row: FLORES-200. The other codes: ISO 639-2 and 639-3. The other names:
CLDR (Babel 2.19), and names in common use; tests/test_languages.py checks that none is in two rows.
"""

from __future__ import annotations

# code | English | Chinese | native | script | other codes | other names | Chinese names without 语, 語 or 文
ROWS = """
zh|Chinese|中文|中文|Hans|zho chi cmn|Mandarin; Mandarin Chinese; Putonghua; 普通话; 普通話|汉 漢 国 國 华 華 简体中
en|English|英语|English|Latn|eng||英
fr|French|法语|français|Latn|fra fre|langue française|法 法国
pt|Portuguese|葡萄牙语|português|Latn|por|língua portuguesa|葡萄牙 葡
es|Spanish|西班牙语|español|Latn|spa|Castilian; castellano|西班牙 西
ja|Japanese|日语|日本語|Jpan|jpn|Nihongo|日 日本
tr|Turkish|土耳其语|Türkçe|Latn|tur|Türk dili|土耳其
ru|Russian|俄语|русский|Cyrl|rus|русский язык|俄 俄罗斯 俄羅斯
ar|Arabic|阿拉伯语|العربية|Arab|arb ara|Standard Arabic; Modern Standard Arabic; عربي; اللغة العربية|阿拉伯 阿
ko|Korean|韩语|한국어|Hang|kor|조선말; 한국말; 韩国语; 韓國語; 韓語|韩 韓 朝鲜 朝鮮
th|Thai|泰语|ไทย|Thai|tha|ภาษาไทย|泰 泰国 泰國
it|Italian|意大利语|italiano|Latn|ita|lingua italiana|意大利 義大利 意
de|German|德语|Deutsch|Latn|deu ger|deutsche Sprache; Hochdeutsch; Standard German|德 德国
vi|Vietnamese|越南语|Tiếng Việt|Latn|vie||越南 越
ms|Malay|马来语|Bahasa Melayu|Latn|zsm msa may zlm|Melayu; Standard Malay; Malaysian; Bahasa Malaysia|马来 馬來
id|Indonesian|印尼语|Bahasa Indonesia|Latn|ind in||印尼 印度尼西亚 印度尼西亞
tl|Filipino|菲律宾语|Filipino|Latn|tgl fil|Tagalog; Pilipino; Wikang Filipino|菲律宾 菲律賓 他加禄 他加祿 塔加洛
hi|Hindi|印地语|हिन्दी|Deva|hin|हिंदी|印地
zh-Hant|Traditional Chinese|繁体中文|繁體中文|Hant||Taiwanese Mandarin; 繁体; 繁體; 繁中; 正體|正體中 繁体汉 繁體漢
pl|Polish|波兰语|polski|Latn|pol|język polski|波兰 波蘭
cs|Czech|捷克语|čeština|Latn|ces cze|český; český jazyk|捷克
nl|Dutch|荷兰语|Nederlands|Latn|nld dut|Flemish; Vlaams|荷兰 荷蘭
km|Khmer|高棉语|ខ្មែរ|Khmr|khm|Central Khmer; Cambodian; ភាសាខ្មែរ|高棉 柬埔寨
my|Burmese|缅甸语|မြန်မာဘာသာ|Mymr|mya bur|Myanmar; Myanmar (Burmese); မြန်မာ; ဗမာ|缅甸 緬甸 缅 緬
fa|Persian|波斯语|فارسی|Arab|pes fas per prs|Farsi; Western Persian; Iranian Persian; Dari|波斯 法尔西
gu|Gujarati|古吉拉特语|ગુજરાતી|Gujr|guj||古吉拉特
ur|Urdu|乌尔都语|اردو|Arab|urd||乌尔都 烏爾都 烏都
te|Telugu|泰卢固语|తెలుగు|Telu|tel||泰卢固 泰盧固
mr|Marathi|马拉地语|मराठी|Deva|mar||马拉地 馬拉地 马拉提
he|Hebrew|希伯来语|עברית|Hebr|heb iw|Modern Hebrew; Ivrit|希伯来 希伯來
bn|Bengali|孟加拉语|বাংলা|Beng|ben|Bangla|孟加拉
ta|Tamil|泰米尔语|தமிழ்|Taml|tam||泰米尔 泰米爾 坦米爾 淡米尔
uk|Ukrainian|乌克兰语|українська|Cyrl|ukr|українська мова|乌克兰 烏克蘭
bo|Tibetan|藏语|བོད་སྐད་|Tibt|bod tib|Standard Tibetan; Lhasa Tibetan; བོད་ཡིག|藏 西藏
kk|Kazakh|哈萨克语|қазақ тілі|Cyrl|kaz|Kazak; қазақша|哈萨克 哈薩克
mn|Mongolian|蒙古语|монгол|Cyrl|khk mon|Halh Mongolian; Khalkha Mongolian; монгол хэл|蒙古 蒙
ug|Uyghur|维吾尔语|ئۇيغۇرچە|Arab|uig|Uighur; Uygur|维吾尔 維吾爾 维
yue|Cantonese|粤语|粵語|Hant|yue|Yue Chinese; 广东话; 廣東話; 白话; 白話|粤 粵 广东 廣東
"""

REMARKS = {
    "prs": "Dari is the Persian of Afghanistan, and the models know one Persian",
    "dari": "Dari is the Persian of Afghanistan, and the models know one Persian",
}
"""Code or name, in lower case, that stands for a variety of the language of its row -> what to know about it."""

UNSPACED = frozenset({"zh", "zh-Hant", "yue", "ja", "th", "km", "my", "bo"})
"""Codes of the languages whose words are not separated by spaces."""

# the tokenizer splits these scripts into many byte-level pieces, so the same meaning needs more new tokens
EXPANSION = {"bo": 4.0, "my": 4.0, "km": 4.0, "ug": 2.5, "gu": 3.0, "te": 3.0, "ta": 3.0, "mr": 2.5, "bn": 2.5}
EXPANSION |= {"hi": 2.0, "mn": 2.0, "kk": 2.0, "th": 2.0, "he": 2.0, "fa": 2.0, "ur": 2.0, "ar": 1.5, "uk": 1.5}

EQUAL_SCRIPTS = {"Kore": "Hang", "Aran": "Arab"}
"""Script -> the script of the table that it is a form of (ISO 15924: Korean is Hangul and Han, Nastaliq is Arabic)."""

SCRIPT_NAMES = {
    "Arab": "Arabic", "Beng": "Bengali", "Bopo": "Bopomofo", "Cyrl": "Cyrillic", "Deva": "Devanagari",
    "Grek": "Greek", "Gujr": "Gujarati", "Guru": "Gurmukhi", "Hang": "Hangul", "Hani": "Han", "Hans": "simplified Han",
    "Hant": "traditional Han", "Hebr": "Hebrew", "Hira": "Hiragana", "Hrkt": "Kana", "Java": "Javanese",
    "Jpan": "Japanese", "Kana": "Katakana", "Khmr": "Khmer", "Latn": "Latin", "Mong": "Mongolian", "Mymr": "Burmese",
    "Phag": "Phags-pa", "Taml": "Tamil", "Telu": "Telugu", "Tglg": "Tagalog", "Thai": "Thai", "Tibt": "Tibetan",
}  # fmt: skip
"""Script (ISO 15924) -> its name in messages."""

TRADITIONAL_REGIONS = frozenset({"TW", "HK", "MO"})
"""Regions that write Chinese with traditional characters; in all others, `zh` is simplified Chinese."""

CHINESE_REGIONS = frozenset({"CN", "SG", "MY"}) | TRADITIONAL_REGIONS
"""Regions that say which of the two rows a Chinese code means, so that nothing is dropped."""

IMPLIED_SCRIPTS = {
    ("kk", "CN"): "Arab", ("kk", "AF"): "Arab", ("kk", "IR"): "Arab", ("kk", "MN"): "Arab", ("mn", "CN"): "Mong",
    ("ms", "CC"): "Arab", ("ug", "KZ"): "Cyrl", ("ug", "MN"): "Cyrl", ("yue", "CN"): "Hans",
}  # fmt: skip
"""Language and region -> the script used there, where it differs from the table's (CLDR, likely subtags)."""

TRANSCRIPTIONS = frozenset(
    ("alalc97", "baku1926", "fonipa", "fonupa", "fonxsamp", "hepburn", "heploc", "jyutping", "pinyin", "wadegile")
)
"""Variants (BCP-47) that are another way to write a language than its script."""

QUALIFIERS = {
    **dict.fromkeys(("simplified", "简体", "簡體", "hans"), "Hans"),
    **dict.fromkeys(("traditional", "繁体", "繁體", "正體", "hant"), "Hant"),
    **dict.fromkeys(("latin", "latn", "latin script", "roman", "romanized", "romanised", "拉丁"), "Latn"),
    **dict.fromkeys(("cyrillic", "cyrl", "cyrillic script", "西里尔"), "Cyrl"),
    **dict.fromkeys(("arabic script", "arab", "perso arabic"), "Arab"),
    **dict.fromkeys(("devanagari", "deva"), "Deva"),
    **dict.fromkeys(("china", "mainland china", "prc", "中国", "中國", "大陆", "大陸"), "CN"),
    **dict.fromkeys(("taiwan", "taiwanese", "台湾", "台灣", "臺灣"), "TW"),
    **dict.fromkeys(("hong kong", "香港"), "HK"),
    **dict.fromkeys(("macau", "macao", "澳门", "澳門"), "MO"),
    **dict.fromkeys(("singapore", "新加坡"), "SG"),
    **dict.fromkeys(("brazil", "brazilian", "brasil", "巴西"), "BR"),
    **dict.fromkeys(("portugal", "european", "欧洲"), "PT"),
    **dict.fromkeys(("france", "法国"), "FR"),
    **dict.fromkeys(("canada", "canadian", "加拿大"), "CA"),
    **dict.fromkeys(("belgium", "belgian"), "BE"),
    **dict.fromkeys(("switzerland",), "CH"),
    **dict.fromkeys(("us", "usa", "united states", "american", "美国", "美國"), "US"),
    **dict.fromkeys(("uk", "united kingdom", "british", "英国", "英國"), "GB"),
    **dict.fromkeys(("australia", "australian"), "AU"),
    **dict.fromkeys(("india", "indian"), "IN"),
    **dict.fromkeys(("mexico", "mexican", "墨西哥"), "MX"),
    **dict.fromkeys(("latin america", "latin american", "拉丁美洲", "拉美"), "419"),
    **dict.fromkeys(("spain",), "ES"),
    **dict.fromkeys(("germany",), "DE"),
    **dict.fromkeys(("austria", "austrian"), "AT"),
    **dict.fromkeys(("iran", "iranian"), "IR"),
    **dict.fromkeys(("afghanistan",), "AF"),
    **dict.fromkeys(("mongolia",), "MN"),
    **dict.fromkeys(("kazakhstan",), "KZ"),
    **dict.fromkeys(("south korea", "korea", "韩国"), "KR"),
    **dict.fromkeys(("japan", "日本"), "JP"),
}
"""Word beside the name of a language, as in `Chinese (Traditional)` -> the script or region that it means."""

COUNTRY_CODES = {
    "cn": "zh", "jp": "ja", "kr": "ko", "cz": "cs", "ua": "uk", "vn": "vi", "mm": "my", "ir": "fa", "kh": "km",
    "ph": "tl", "pk": "ur", "bd": "bn", "hk": "zh-Hant", "us": "en", "gb": "en",
}  # fmt: skip
"""Code of a country that is often written for its language -> that language."""

OLD_TAGS = {"zho-simpl": "zho_Hans", "zho-trad": "zho_Hant", "zh-chs": "zh-Hans", "zh-cht": "zh-Hant"}
"""Tag of FLORES-101 or of Windows, in lower case with `-` -> what it means."""

_LOCALES_LIKE_PAIRS = (
    "es-ar es-bo ms-bn ms-my zh-my ta-my en-my ar-mr fr-mr fr-km ar-km en-gu en-ug en-ms en-vi pt-tl de-it kk-mn ug-mn "
    "hi-in bn-in ta-in te-in mr-in gu-in ur-in en-in zh-yue zh-cmn ar-arb ms-zsm ms-zlm"
)
LOCALES_LIKE_PAIRS = frozenset(_LOCALES_LIKE_PAIRS.split())
"""Locales in lower case whose region, or extended language, is also the code of a language of the table."""
