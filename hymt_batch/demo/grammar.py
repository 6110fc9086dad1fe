"""Write weather bulletins in English with their French, German and Chinese translations.

A bulletin has one to three sentences about one place and season. Every English text has exactly one correct translation
in each language, so the output of a translation job can be compared with `==`. One bulletin in sixteen, chosen by a
hash of its English text, is held out: the demo model is never trained on held-out bulletins, and users get only these.

This file does not know the model, its prompts or its tokenizer. It needs only the standard library. Its only source of
randomness is `Random.random()`, whose sequence is the same in every version of Python.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TypeVar

T = TypeVar("T")

TARGETS = ("fr", "de", "zh")
NARROW_SPACE = "\u202f"  # French: before the percent sign and between thousands
NO_BREAK_SPACE = "\u00a0"  # German: before the percent sign


@dataclass(frozen=True, slots=True)
class Text:
    """The same text in four languages: a clause, which starts in lower case, or a bulletin of whole sentences."""

    en: str
    fr: str
    de: str
    zh: str

    def in_language(self, lang: str) -> str:
        return str(getattr(self, lang))


@dataclass(frozen=True, slots=True)
class Place:
    """A place as an adverbial: "in Lyon", "along the coast"."""

    en: str
    fr: str
    de: str
    zh: str


@dataclass(frozen=True, slots=True)
class City:
    """A city; `fr_from` is French for "from X", `is_hot` limits it to summer bulletins."""

    en: str
    fr: str
    de: str
    zh: str
    fr_at: str = ""
    fr_from: str = ""
    is_hot: bool = False

    def place(self) -> Place:
        return Place(f"in {self.en}", self.at_fr(), f"in {self.de}", self.zh)

    def at_fr(self) -> str:
        return self.fr_at or f"à {self.fr}"

    def from_fr(self) -> str:
        return self.fr_from or (f"d'{self.fr}" if self.fr[0] in "AEIOUÉ" else f"de {self.fr}")


@dataclass(frozen=True, slots=True)
class Phenomenon:
    """Weather as a noun; `agreement` is the French participle ending, `is_plural` is for English, French, German."""

    en: str
    fr: str
    fr_bare: str
    agreement: str
    de: str
    de_dative: str
    zh: str
    is_plural: tuple[bool, bool, bool]
    seasons: str
    moves: bool = True


@dataclass(frozen=True, slots=True)
class Adjective:
    """Weather as an adjective; `fr_f` is the feminine form, `de_en` the German form after "einer" or "einem"."""

    en: str
    fr: str
    fr_f: str
    de: str
    de_en: str
    zh: str
    seasons: str


@dataclass(frozen=True, slots=True)
class WeatherSubject:
    """Weather that is already known ("the rain"); `changes`: English, French, German verb, German particle, Chinese."""

    en: str
    fr: str
    de: str
    zh: str
    changes: tuple[tuple[str, str, str, str, str], ...]
    seasons: str


# the cities of a group are near each other: rain can move from one to another
CITY_GROUPS = (
    (
        City("Paris", "Paris", "Paris", "巴黎"),
        City("Lyon", "Lyon", "Lyon", "里昂"),
        City("Nice", "Nice", "Nizza", "尼斯"),
        City("Marseille", "Marseille", "Marseille", "马赛"),
        City("London", "Londres", "London", "伦敦"),
        City("Dublin", "Dublin", "Dublin", "都柏林"),
        City("Edinburgh", "Édimbourg", "Edinburgh", "爱丁堡"),
        City("Brussels", "Bruxelles", "Brüssel", "布鲁塞尔"),
        City("Antwerp", "Anvers", "Antwerpen", "安特卫普"),
        City("Amsterdam", "Amsterdam", "Amsterdam", "阿姆斯特丹"),
        City("The Hague", "La Haye", "Den Haag", "海牙"),
    ),
    (
        City("Berlin", "Berlin", "Berlin", "柏林"),
        City("Munich", "Munich", "München", "慕尼黑"),
        City("Hamburg", "Hambourg", "Hamburg", "汉堡"),
        City("Cologne", "Cologne", "Köln", "科隆"),
        City("Vienna", "Vienne", "Wien", "维也纳"),
        City("Zurich", "Zurich", "Zürich", "苏黎世"),
        City("Geneva", "Genève", "Genf", "日内瓦"),
        City("Prague", "Prague", "Prag", "布拉格"),
        City("Warsaw", "Varsovie", "Warschau", "华沙"),
        City("Krakow", "Cracovie", "Krakau", "克拉科夫"),
        City("Budapest", "Budapest", "Budapest", "布达佩斯"),
    ),
    (
        City("Rome", "Rome", "Rom", "罗马"),
        City("Milan", "Milan", "Mailand", "米兰"),
        City("Naples", "Naples", "Neapel", "那不勒斯"),
        City("Venice", "Venise", "Venedig", "威尼斯"),
        City("Turin", "Turin", "Turin", "都灵"),
        City("Madrid", "Madrid", "Madrid", "马德里"),
        City("Barcelona", "Barcelone", "Barcelona", "巴塞罗那"),
        City("Seville", "Séville", "Sevilla", "塞维利亚"),
        City("Lisbon", "Lisbonne", "Lissabon", "里斯本"),
        City("Athens", "Athènes", "Athen", "雅典"),
        City("Istanbul", "Istanbul", "Istanbul", "伊斯坦布尔"),
        City("Cairo", "Le Caire", "Kairo", "开罗", fr_at="au Caire", fr_from="du Caire", is_hot=True),
    ),
    (
        City("Oslo", "Oslo", "Oslo", "奥斯陆"),
        City("Bergen", "Bergen", "Bergen", "卑尔根"),
        City("Copenhagen", "Copenhague", "Kopenhagen", "哥本哈根"),
        City("Stockholm", "Stockholm", "Stockholm", "斯德哥尔摩"),
        City("Helsinki", "Helsinki", "Helsinki", "赫尔辛基", fr_from="d'Helsinki"),
        City("Moscow", "Moscou", "Moskau", "莫斯科"),
    ),
    (
        City("Beijing", "Pékin", "Peking", "北京"),
        City("Shanghai", "Shanghai", "Shanghai", "上海"),
        City("Tokyo", "Tokyo", "Tokio", "东京"),
        City("Seoul", "Séoul", "Seoul", "首尔"),
        City("Singapore", "Singapour", "Singapur", "新加坡", is_hot=True),
    ),
    (
        City("Montreal", "Montréal", "Montreal", "蒙特利尔"),
        City("New York", "New York", "New York", "纽约"),
        City("Boston", "Boston", "Boston", "波士顿"),
    ),
)
CITIES = tuple(city for group in CITY_GROUPS for city in group)

REGIONS = (
    Place("in the north", "dans le nord", "im Norden", "北部地区"),
    Place("in the south", "dans le sud", "im Süden", "南部地区"),
    Place("in the east", "dans l'est", "im Osten", "东部地区"),
    Place("in the west", "dans l'ouest", "im Westen", "西部地区"),
    Place("on the coast", "sur la côte", "an der Küste", "沿海地区"),
    Place("in the mountains", "en montagne", "in den Bergen", "山区"),
    Place("in the valleys", "dans les vallées", "in den Tälern", "山谷地区"),
)

SEAS = (
    Place("in the North Sea", "en mer du Nord", "auf der Nordsee", "北海"),
    Place("in the Baltic Sea", "en mer Baltique", "auf der Ostsee", "波罗的海"),
    Place("in the Mediterranean", "en Méditerranée", "auf dem Mittelmeer", "地中海"),
    Place("in the English Channel", "dans la Manche", "im Ärmelkanal", "英吉利海峡"),
    Place("in the Black Sea", "en mer Noire", "auf dem Schwarzen Meer", "黑海"),
)

DAYS = (
    Text("Monday", "lundi", "Montag", "周一"),
    Text("Tuesday", "mardi", "Dienstag", "周二"),
    Text("Wednesday", "mercredi", "Mittwoch", "周三"),
    Text("Thursday", "jeudi", "Donnerstag", "周四"),
    Text("Friday", "vendredi", "Freitag", "周五"),
    Text("Saturday", "samedi", "Samstag", "周六"),
    Text("Sunday", "dimanche", "Sonntag", "周日"),
)

DAY_PARTS = (
    Text("morning", "matin", "morgen", "上午"),
    Text("afternoon", "après-midi", "nachmittag", "下午"),
    Text("evening", "soir", "abend", "傍晚"),
)

NEAR_TIMES = (
    Text("today", "aujourd'hui", "heute", "今天"),
    Text("this morning", "ce matin", "heute Morgen", "今天上午"),
    Text("this afternoon", "cet après-midi", "heute Nachmittag", "今天下午"),
    Text("this evening", "ce soir", "heute Abend", "今天傍晚"),
    Text("tonight", "cette nuit", "heute Nacht", "今夜"),
    Text("this weekend", "ce week-end", "am Wochenende", "本周末"),
    Text("over the next few days", "ces prochains jours", "in den nächsten Tagen", "未来几天"),
)

TOMORROW = (
    Text("tomorrow", "demain", "morgen", "明天"),
    Text("tomorrow morning", "demain matin", "morgen früh", "明天上午"),
    Text("tomorrow afternoon", "demain après-midi", "morgen Nachmittag", "明天下午"),
    Text("tomorrow evening", "demain soir", "morgen Abend", "明天傍晚"),
)

ONE, MANY, MASS_FR_PLURAL = (False, False, False), (True, True, True), (False, True, False)

# seasons: w winter, m spring and autumn, s summer
PHENOMENA = (
    Phenomenon(
        "light rain", "une pluie faible", "pluie faible", "e", "leichter Regen", "leichtem Regen", "小雨", ONE, "ms"
    ),
    Phenomenon(
        "heavy rain",
        "de fortes pluies",
        "fortes pluies",
        "es",
        "starker Regen",
        "starkem Regen",
        "大雨",
        MASS_FR_PLURAL,
        "wms",
    ),
    Phenomenon(
        "drizzle", "de la bruine", "bruine", "e", "Nieselregen", "Nieselregen", "毛毛雨", ONE, "wm", moves=False
    ),
    Phenomenon(
        "scattered showers",
        "des averses éparses",
        "averses éparses",
        "es",
        "vereinzelte Schauer",
        "vereinzelten Schauern",
        "零星阵雨",
        MANY,
        "ms",
    ),
    Phenomenon("thunderstorms", "des orages", "orages", "s", "Gewitter", "Gewittern", "雷雨", MANY, "ms"),
    Phenomenon(
        "severe thunderstorms",
        "de violents orages",
        "violents orages",
        "s",
        "schwere Gewitter",
        "schweren Gewittern",
        "强雷暴",
        MANY,
        "s",
    ),
    Phenomenon(
        "light snow",
        "de faibles chutes de neige",
        "faibles chutes de neige",
        "es",
        "leichter Schneefall",
        "leichtem Schneefall",
        "小雪",
        MASS_FR_PLURAL,
        "w",
    ),
    Phenomenon(
        "heavy snow",
        "d'abondantes chutes de neige",
        "abondantes chutes de neige",
        "es",
        "starker Schneefall",
        "starkem Schneefall",
        "大雪",
        MASS_FR_PLURAL,
        "w",
    ),
    Phenomenon("sleet", "de la neige fondue", "neige fondue", "e", "Schneeregen", "Schneeregen", "雨夹雪", ONE, "w"),
    Phenomenon("hail", "de la grêle", "grêle", "e", "Hagel", "Hagel", "冰雹", ONE, "ms", moves=False),
    Phenomenon(
        "freezing rain",
        "des pluies verglaçantes",
        "pluies verglaçantes",
        "es",
        "gefrierender Regen",
        "gefrierendem Regen",
        "冻雨",
        MASS_FR_PLURAL,
        "w",
    ),
    Phenomenon(
        "dense fog",
        "un brouillard dense",
        "brouillard dense",
        "",
        "dichter Nebel",
        "dichtem Nebel",
        "浓雾",
        ONE,
        "wm",
        moves=False,
    ),
    Phenomenon("frost", "du gel", "gel", "", "Frost", "Frost", "霜冻", ONE, "wm", moves=False),
    Phenomenon(
        "strong winds",
        "des vents forts",
        "vents forts",
        "s",
        "starker Wind",
        "starkem Wind",
        "大风",
        (True, True, False),
        "wms",
        moves=False,
    ),
)

ADJECTIVES = (
    Adjective("sunny", "ensoleillé", "ensoleillée", "sonnig", "sonnigen", "晴朗", "wms"),
    Adjective("cloudy", "nuageux", "nuageuse", "bewölkt", "bewölkten", "多云", "wms"),
    Adjective("overcast", "couvert", "couverte", "bedeckt", "bedeckten", "阴沉", "wm"),
    Adjective("rainy", "pluvieux", "pluvieuse", "regnerisch", "regnerischen", "多雨", "wm"),
    Adjective("windy", "venteux", "venteuse", "windig", "windigen", "多风", "wm"),
    Adjective("dry", "sec", "sèche", "trocken", "trockenen", "干燥", "wms"),
    Adjective("humid", "humide", "humide", "feucht", "feuchten", "潮湿", "ms"),
    Adjective("mild", "doux", "douce", "mild", "milden", "温和", "m"),
    Adjective("cool", "frais", "fraîche", "kühl", "kühlen", "凉爽", "m"),
    Adjective("cold", "froid", "froide", "kalt", "kalten", "寒冷", "w"),
    Adjective("hot", "chaud", "chaude", "heiß", "heißen", "炎热", "s"),
    Adjective("calm", "calme", "calme", "ruhig", "ruhigen", "平静", "ms"),
)
SKY, FEEL = ADJECTIVES[:5], ADJECTIVES[5:11]

EASE_ONE = ("ease", "faiblira", "lässt", "nach", "减弱")
EASE_MANY = ("ease", "faibliront", "lassen", "nach", "减弱")
GROW_ONE = ("intensify", "s'intensifiera", "nimmt", "zu", "增强")
GROW_MANY = ("intensify", "s'intensifieront", "nehmen", "zu", "增强")
WEATHER_SUBJECTS = (
    WeatherSubject("the rain", "la pluie", "der Regen", "雨势", (EASE_ONE, GROW_ONE), "wms"),
    WeatherSubject("the snowfall", "la chute de neige", "der Schneefall", "降雪", (EASE_ONE, GROW_ONE), "w"),
    WeatherSubject("the wind", "le vent", "der Wind", "风力", (EASE_ONE, GROW_ONE), "wms"),
    WeatherSubject("the showers", "les averses", "die Schauer", "阵雨", (EASE_MANY, GROW_MANY), "ms"),
    WeatherSubject("the thunderstorms", "les orages", "die Gewitter", "雷暴", (EASE_MANY, GROW_MANY), "s"),
    WeatherSubject(
        "the fog", "le brouillard", "der Nebel", "雾", (("clear", "se dissipera", "löst sich", "auf", "消散"),), "wm"
    ),
)

STRENGTHS = (
    Text("light", "faible", "schwacher", "微弱的"),
    Text("moderate", "modéré", "mäßiger", "中等强度的"),
    Text("strong", "fort", "starker", "强劲的"),
    Text("icy", "glacial", "eisiger", "凛冽的"),
)
DIRECTIONS = (
    Text("northerly", "du nord", "Nordwind", "北风"),
    Text("southerly", "du sud", "Südwind", "南风"),
    Text("easterly", "d'est", "Ostwind", "东风"),
    Text("westerly", "d'ouest", "Westwind", "西风"),
    Text("north-easterly", "du nord-est", "Nordostwind", "东北风"),
    Text("north-westerly", "du nord-ouest", "Nordwestwind", "西北风"),
    Text("south-easterly", "du sud-est", "Südostwind", "东南风"),
    Text("south-westerly", "du sud-ouest", "Südwestwind", "西南风"),
)

COLOURS = (
    Text("yellow", "jaune", "gelbe", "黄色"),
    Text("orange", "orange", "orangefarbene", "橙色"),
    Text("red", "rouge", "rote", "红色"),
)
HAZARDS = (
    (Text("storm", "à la tempête", "Sturmwarnung", "风暴"), "wms"),
    (Text("flood", "aux inondations", "Hochwasserwarnung", "洪水"), "wms"),
    (Text("thunderstorm", "aux orages", "Gewitterwarnung", "雷暴"), "ms"),
    (Text("heat", "à la canicule", "Hitzewarnung", "高温"), "s"),
    (Text("forest fire", "aux feux de forêt", "Waldbrandwarnung", "森林火险"), "s"),
    (Text("fog", "au brouillard", "Nebelwarnung", "大雾"), "wm"),
    (Text("frost", "au gel", "Frostwarnung", "霜冻"), "wm"),
    (Text("avalanche", "aux avalanches", "Lawinenwarnung", "雪崩"), "w"),
    (Text("black ice", "au verglas", "Glatteiswarnung", "道路结冰"), "w"),
)

AUDIENCES = (
    Text("drivers", "les automobilistes", "Autofahrer", "驾车者"),
    Text("cyclists", "les cyclistes", "Radfahrer", "骑行者"),
    Text("hikers", "les randonneurs", "Wanderer", "徒步者"),
    Text("travellers", "les voyageurs", "Reisende", "旅客"),
    Text("residents", "les habitants", "Anwohner", "居民"),
)
# German: verb, then the rest of the clause
ADVICE = (
    (
        Text(
            "should expect delays",
            "doivent s'attendre à des retards",
            "müssen|mit Verzögerungen rechnen",
            "需做好延误准备",
        ),
        "wms",
    ),
    (
        Text(
            "should take extra care", "doivent redoubler de prudence", "sollten|besonders vorsichtig sein", "需格外小心"
        ),
        "wms",
    ),
    (
        Text(
            "should follow the latest forecasts",
            "doivent suivre les dernières prévisions",
            "sollten|die neuesten Vorhersagen verfolgen",
            "应关注最新预报",
        ),
        "wms",
    ),
    (
        Text(
            "should stay away from rivers",
            "doivent rester à l'écart des cours d'eau",
            "sollten|sich von Flüssen fernhalten",
            "应远离河流",
        ),
        "wms",
    ),
    (
        Text(
            "should protect themselves from the sun",
            "doivent se protéger du soleil",
            "sollten|sich vor der Sonne schützen",
            "应注意防晒",
        ),
        "s",
    ),
    (
        Text("should drink plenty of water", "doivent boire beaucoup d'eau", "sollten|viel Wasser trinken", "应多喝水"),
        "s",
    ),
    (Text("should dress warmly", "doivent s'habiller chaudement", "sollten|sich warm anziehen", "应注意保暖"), "w"),
    (
        Text(
            "should watch out for icy roads",
            "doivent se méfier des routes verglacées",
            "sollten|auf glatte Straßen achten",
            "应注意路面结冰",
        ),
        "w",
    ),
)

CHANCES = (
    (Text("rain", "pluie", "Regen", "降雨"), "wms"),
    (Text("snow", "neige", "Schnee", "降雪"), "w"),
    (Text("hail", "grêle", "Hagel", "冰雹"), "ms"),
    (Text("thunderstorms", "d'orages", "Gewitter", "雷雨"), "ms"),
    (Text("fog", "brouillard", "Nebel", "起雾"), "wm"),
)

TEMPERATURES = {"w": (-24, -4, 9), "m": (-1, 9, 21), "s": (14, 23, 38)}


def reference(bulletin: Text, tgt_lang: str) -> str:
    """Return the correct translation of a bulletin into "fr", "de" or "zh"."""
    if tgt_lang not in TARGETS:
        raise ValueError(f"The demo does not have the language {tgt_lang!r}. Use one of {', '.join(TARGETS)}.")
    return bulletin.in_language(tgt_lang)


def is_held_out(text: str) -> bool:
    """Return whether this English text is excluded from training, by the sha256 of its UTF-8 bytes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % 16 == 0


def stream(seed: int, *, held_out: bool) -> Iterator[Text]:
    """Yield an endless stream of bulletins: only held-out ones, or only others."""
    rng = Random(seed)
    while True:
        bulletin = write(rng)
        if is_held_out(bulletin.en) == held_out:
            yield bulletin


def sample(seed: int, num: int) -> list[Text]:
    """Draw `num` held-out bulletins; the same seed gives the same ones."""
    bulletins = stream(seed, held_out=True)
    return [next(bulletins) for _ in range(num)]


def write(rng: Random) -> Text:
    """Write one bulletin of one to three sentences, or a headline of a few words."""
    scene = _Scene(rng)
    kind = rng.random()
    if kind < 0.18:
        return _sentence(scene.headline())
    num_sentences = 1 if kind < 0.44 else 2 if kind < 0.78 else 3
    sentences = [scene.opening()]
    sentences += [scene.follow_up() for _ in range(num_sentences - 1)]
    return _join([_sentence(clause) for clause in sentences], " ", " ", " ", "")


class _Scene:
    """The season and place of one bulletin, and the clauses that can be written about them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.season = self.pick("wms")
        self.city = self.pick_city()
        self.used: set[str] = set()

    # random choices

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.random() * len(items))]

    def between(self, low: int, high: int, step: int = 1) -> int:
        return low + step * int(self.rng.random() * ((high - low) // step + 1))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick_city(self) -> City:
        while (city := self.pick(CITIES)).is_hot and self.season != "s":
            pass
        return city

    def other_city(self) -> City:
        group = next(group for group in CITY_GROUPS if self.city in group)
        while (city := self.pick(group)) is self.city or (city.is_hot and self.season != "s"):
            pass
        return city

    def far_city(self) -> City:
        while (city := self.pick_city()) is self.city:
            pass
        return city

    def phenomenon(self) -> Phenomenon:
        return self.pick([p for p in PHENOMENA if self.season in p.seasons])

    def adjectives(self, pool: Sequence[Adjective]) -> list[Adjective]:
        return [a for a in pool if self.season in a.seasons]

    def degrees(self, part: int) -> int:
        """Draw a temperature from the cooler (0) or warmer (1) part of the season's range."""
        low, middle, high = TEMPERATURES[self.season]
        return self.between(middle, high) if part else self.between(low, middle)

    def place(self) -> Place:
        draw = self.rng.random()
        if draw < 0.7:
            return self.city.place()
        if draw < 0.85:
            return self.pick(REGIONS)
        return _both(self.city, self.other_city())

    def time(self) -> Text:
        draw = self.rng.random()
        if draw < 0.25:
            day = self.pick(DAYS)
            return Text(f"on {day.en}", day.fr, f"am {day.de}", day.zh)
        if draw < 0.5:
            day, part = self.pick(DAYS), self.pick(DAY_PARTS)
            return Text(f"on {day.en} {part.en}", f"{day.fr} {part.fr}", f"am {day.de}{part.de}", f"{day.zh}{part.zh}")
        if draw < 0.6:
            index = self.between(0, 6)
            day, after = DAYS[index], DAYS[(index + 1) % 7]
            return Text(
                f"on {day.en} night",
                f"dans la nuit de {day.fr} à {after.fr}",
                f"in der Nacht zum {after.de}",
                f"{day.zh}夜间",
            )
        return self.pick(NEAR_TIMES + TOMORROW)

    def limit(self) -> Text:
        """Draw a time that ends something, as in "until Sunday evening" or "by tomorrow"."""
        draw = self.rng.random()
        day, part = self.pick(DAYS), self.pick(DAY_PARTS)
        if draw < 0.4:
            return day
        if draw < 0.75:
            return Text(f"{day.en} {part.en}", f"{day.fr} {part.fr}", f"{day.de}{part.de}", f"{day.zh}{part.zh}")
        return self.pick(TOMORROW)

    # bulletins

    def headline(self) -> Text:
        frame = self.pick(
            (self.bare_phenomenon, self.bare_phenomenon, self.bare_warning, self.bare_degrees, self.bare_sky)
        )
        return frame()

    def opening(self) -> Text:
        frame = self.pick((
            self.phenomenon_expected, self.phenomenon_expected, self.phenomenon_ahead, self.front_moves,
            self.weather_is, self.weather_is, self.contrast, self.after_the_night, self.temperature,
            self.highs_and_lows, self.wind, self.warning, self.chance_of, self.amount,
        ))  # fmt: skip
        self.used.add(frame.__name__)
        time = self.time() if self.chance(0.8) else None
        clause = frame(self.place(), time)
        draw = self.rng.random()
        if draw < 0.15:
            return _join([clause, self.addition()], ", and ", ", et ", ", und ", "，")
        if draw < 0.22 and frame is not self.contrast:
            contrast = self.weather_is(self.other_city().place(), None)
            return _join([clause, contrast], ", but ", ", mais ", ", aber ", "，但")
        return clause

    def addition(self) -> Text:
        """Write a second clause about the same place and time."""
        frame = self.pick([f for f in (self.temperature, self.wind, self.gusts) if f.__name__ not in self.used])
        self.used.add(frame.__name__)
        return frame(None, None)

    def follow_up(self) -> Text:
        frames = [
            self.temperature, self.highs_and_lows, self.compare, self.wind, self.wind, self.gusts, self.warning,
            self.warning_changed, self.chance_of, self.advice, self.advice, self.turning, self.visibility, self.waves,
            self.weather_is, self.phenomenon_expected, self.amount,
        ] + ([self.snow_line, self.rain_to_snow] if self.season == "w" else [])  # fmt: skip
        while (frame := self.pick(frames)).__name__ in self.used:
            pass
        self.used.add(frame.__name__)
        draw = self.rng.random()
        place = self.other_city().place() if draw < 0.35 else self.pick(REGIONS) if draw < 0.5 else None
        time = self.time() if self.chance(0.4) else None
        return frame(place, time)

    # headlines

    def bare_phenomenon(self) -> Text:
        what, where, when = self.phenomenon(), self.place(), self.time()
        return Text(
            f"{what.en} {where.en} {when.en}",
            f"{what.fr_bare} {where.fr} {when.fr}",
            f"{when.de} {what.de} {where.de}",
            f"{when.zh}{where.zh}有{what.zh}",
        )

    def bare_sky(self) -> Text:
        what, where, when = self.pick(self.adjectives(SKY)), self.place(), self.time()
        return Text(
            f"{what.en} {where.en} {when.en}",
            f"temps {what.fr} {where.fr} {when.fr}",
            f"{when.de} {what.de} {where.de}",
            f"{when.zh}{where.zh}天气{what.zh}",
        )

    def bare_degrees(self) -> Text:
        num, where = _degrees(self.degrees(self.between(0, 1))), self.place()
        if self.chance(0.5):
            return Text(f"{num.en} {where.en}", f"{num.fr} {where.fr}", f"{num.de} {where.de}", f"{where.zh}{num.zh}")
        when = self.time()
        return Text(
            f"{num.en} {where.en} {when.en}",
            f"{num.fr} {where.fr} {when.fr}",
            f"{when.de} {num.de} {where.de}",
            f"{when.zh}{where.zh}{num.zh}",
        )

    def bare_warning(self) -> Text:
        name, city = self.warning_name(), self.city
        colour, hazard = name
        german = f"{colour.de} {hazard.de}" if colour else hazard.de
        head = Text(
            f"{_warning_en(name)} for {city.en}",
            f"{_warning_fr(name)} pour {city.fr}",
            f"{german} für {city.de}",
            f"{city.zh}发布{_warning_zh(name)}",
        )
        if self.chance(0.5):
            return head
        until = self.limit()
        return Text(
            f"{head.en} until {until.en}",
            f"{head.fr} jusqu'à {until.fr}",
            f"{head.de} bis {until.de}",
            f"{head.zh}，有效期至{until.zh}",
        )

    # clauses; each takes an optional place and time

    def clause(
        self,
        en: str,
        fr: str,
        de: tuple[str, str, str, str],
        zh: str,
        place: Place | None,
        time: Text | None,
        *,
        french_place_first: bool = False,
        zh_first: str = "",
    ) -> Text:
        """Add a place and a time at the position where each language puts them.

        Args:
            de: A subject directly after the verb, the verb, a subject after place and time, the end of the clause.
            french_place_first: Put the place first, because the clause has a complement that starts with "à" itself.
            zh_first: Chinese text before the time.
        """
        time_leads = time is not None and self.chance(0.35)
        where_en, where_fr = (place.en, place.fr) if place else ("", "")
        where_de, where_zh = (place.de, place.zh) if place else ("", "")
        when_en, when_fr, when_de, when_zh = (time.en, time.fr, time.de, time.zh) if time else ("", "", "", "")
        early, verb, late, end = de
        if time_leads:
            english = f"{when_en}, {_join_words(en, where_en)}"
            lead = _join_words(when_fr, where_fr) if french_place_first else when_fr
            french = f"{lead}, {fr if french_place_first else _join_words(fr, where_fr)}"
            german = _join_words(when_de, verb, early, where_de, late, end)
        else:
            english = _join_words(en, where_en, when_en)
            french = _join_words(fr, where_fr, when_fr)
            if french_place_first and place:
                french = f"{where_fr}, {_join_words(fr, when_fr)}"
            if place:
                german = _join_words(where_de, verb, early, when_de, late, end)
            else:
                german = _join_words(early or "es", verb, when_de, late, end)
        return Text(english, french, german, f"{zh_first}{when_zh}{where_zh}{zh}")

    def phenomenon_expected(self, place: Place | None, time: Text | None) -> Text:
        what = self.phenomenon()
        plural_en, plural_fr, plural_de = what.is_plural
        return self.clause(
            f"{what.en} {'are' if plural_en else 'is'} expected",
            f"{what.fr} {'sont' if plural_fr else 'est'} attendu{what.agreement}",
            ("", "werden" if plural_de else "wird", what.de, "erwartet"),
            f"有{what.zh}",
            place,
            time,
            zh_first="预计",
        )

    def phenomenon_ahead(self, place: Place | None, time: Text | None) -> Text:
        what, city = self.phenomenon(), self.city
        when_de = time.de if time else ""
        english, french = f"{city.en} can expect {what.en}", f"{city.fr} peut s'attendre à {what.fr}"
        when_zh = time.zh if time else ""
        return Text(
            _join_words(english, time.en if time else ""),
            _join_words(french, time.fr if time else ""),
            _join_words(f"{city.de} muss", when_de, f"mit {what.de_dative} rechnen"),
            f"{when_zh}{city.zh}可能出现{what.zh}",
        )

    def front_moves(self, place: Place | None, time: Text | None) -> Text:
        what = self.pick([p for p in PHENOMENA if self.season in p.seasons and p.moves])
        start, end = self.city, self.other_city()
        _, plural_fr, plural_de = what.is_plural
        verb = "se déplaceront" if plural_fr else "se déplacera"
        return self.clause(
            f"{what.en} will move from {start.en} towards {end.en}",
            f"{what.fr} {verb} {start.from_fr()} vers {end.fr}",
            (what.de, "ziehen" if plural_de else "zieht", "", f"von {start.de} nach {end.de}"),
            f"{what.zh}将从{start.zh}移向{end.zh}",
            None,
            time,
        )

    def weather_is(self, place: Place | None, time: Text | None) -> Text:
        what = self.weather()
        return self.clause(
            f"it will be {what.en}",
            f"le temps sera {what.fr}",
            ("es", "wird", "", what.de),
            f"天气{what.zh}",
            place,
            time,
        )

    def weather(self) -> Text:
        sky = self.pick(self.adjectives(ADJECTIVES))
        if sky in SKY and self.chance(0.5):
            feel = self.pick(self.adjectives(FEEL))
            return Text(
                f"{sky.en} and {feel.en}", f"{sky.fr} et {feel.fr}", f"{sky.de} und {feel.de}", f"{sky.zh}且{feel.zh}"
            )
        return Text(sky.en, sky.fr, sky.de, sky.zh)

    def contrast(self, place: Place | None, time: Text | None) -> Text:
        here, there = self.city.place(), self.far_city().place()
        first = self.pick(self.adjectives(ADJECTIVES))
        while (second := self.pick(self.adjectives(ADJECTIVES))) is first:
            pass
        english = f"it will be {first.en} {here.en} but {second.en} {there.en}"
        french = f"le temps sera {first.fr} {here.fr}, mais {second.fr} {there.fr}"
        chinese = f"{here.zh}天气{first.zh}，而{there.zh}天气{second.zh}"
        contrast_de = f"{there.de} dagegen {second.de}"
        if time is None:
            return Text(english, french, f"{here.de} wird es {first.de}, {contrast_de}", chinese)
        return Text(
            f"{time.en}, {english}",
            f"{time.fr}, {french}",
            f"{time.de} wird es {here.de} {first.de}, {contrast_de}",
            f"{time.zh}{chinese}",
        )

    def after_the_night(self, place: Place | None, time: Text | None) -> Text:
        earlier, what = self.pick(self.adjectives(ADJECTIVES[3:])), self.pick(self.adjectives(SKY))
        while what is earlier:
            what = self.pick(self.adjectives(SKY))
        where = place or self.city.place()
        night_en, night_fr, night_de, night_zh = self.pick((
            ("night", "nuit", "einer", "夜晚"),
            ("morning", "matinée", "einem", "上午"),
        ))  # fmt: skip
        german = {"einer": "Nacht", "einem": "Vormittag"}[night_de]
        return Text(
            f"after a {earlier.en} {night_en}, it will be {what.en} {where.en}",
            f"après une {night_fr} {earlier.fr_f}, le temps sera {what.fr} {where.fr}",
            f"nach {night_de} {earlier.de_en} {german} wird es {where.de} {what.de}",
            f"经历{earlier.zh}的{night_zh}后，{where.zh}天气将转为{what.zh}",
        )

    def temperature(self, place: Place | None, time: Text | None) -> Text:
        part = self.between(0, 1)
        num = _degrees(self.degrees(part))
        if part:
            return self.clause(
                f"temperatures will reach {num.en}",
                f"les températures atteindront {num.fr}",
                ("die Temperaturen", "steigen", "", f"auf {num.de}"),
                f"气温将达到{num.zh}",
                place,
                time,
            )
        return self.clause(
            f"temperatures will fall to {num.en}",
            f"les températures descendront à {num.fr}",
            ("die Temperaturen", "sinken", "", f"auf {num.de}"),
            f"气温将降至{num.zh}",
            place,
            time,
            french_place_first=True,
        )

    def highs_and_lows(self, place: Place | None, time: Text | None) -> Text:
        high = self.degrees(1)
        low = high - self.between(3, 12)
        top, bottom = _degrees(high), _degrees(low)
        return self.clause(
            f"highs of {top.en} and lows of {bottom.en} are expected",
            f"des maximales de {top.fr} et des minimales de {bottom.fr} sont attendues",
            ("", "werden", f"Höchstwerte von {top.de} und Tiefstwerte von {bottom.de}", "erwartet"),
            f"最高气温{top.zh}，最低气温{bottom.zh}",
            place,
            time,
            zh_first="预计",
        )

    def compare(self, place: Place | None, time: Text | None) -> Text:
        num, here, there = _degrees(self.between(2, 15)), self.city, self.far_city()
        english, french, german, chinese = self.pick((
            ("colder", "de moins", "kälter", "低"),
            ("warmer", "de plus", "wärmer", "高"),
        ))  # fmt: skip
        return self.clause(
            f"it will be {num.en} {english} in {here.en} than in {there.en}",
            f"il fera {num.fr} {french} {here.at_fr()} qu'{there.at_fr()}",
            ("es", "wird", "", f"in {here.de} {num.de} {german} als in {there.de}"),
            f"{here.zh}的气温将比{there.zh}{chinese}{num.zh}",
            None,
            time,
        )

    def wind(self, place: Place | None, time: Text | None) -> Text:
        strength = self.pick(STRENGTHS if self.season == "w" else STRENGTHS[:3])
        direction = self.pick(DIRECTIONS)
        speed = self.between(40, 130, 5) if strength.en == "strong" and self.chance(0.6) else None
        article = "an" if strength.en == "icy" else "a"
        clause = self.clause(
            f"{article} {strength.en} {direction.en} wind will blow",
            f"un vent {direction.fr} {strength.fr} soufflera",
            ("", "weht", f"ein {strength.de} {direction.de}", ""),
            f"将刮{strength.zh}{direction.zh}",
            place,
            time,
        )
        if speed is None:
            return clause
        return Text(
            f"{clause.en}, with gusts of up to {speed} km/h",
            f"{clause.fr}, avec des rafales jusqu'à {speed} km/h",
            f"{clause.de} mit Böen bis zu {speed} km/h",
            f"{clause.zh}，阵风最高可达每小时{speed}公里",
        )

    def gusts(self, place: Place | None, time: Text | None) -> Text:
        speed = self.between(40, 130, 5)
        return self.clause(
            f"gusts of up to {speed} km/h are possible",
            f"des rafales jusqu'à {speed} km/h sont possibles",
            ("", "sind", f"Böen bis zu {speed} km/h", "möglich"),
            f"可能出现每小时{speed}公里的阵风",
            place,
            time,
        )

    def warning_name(self) -> tuple[Text | None, Text]:
        colour = self.pick(COLOURS) if self.chance(0.5) else None
        return colour, self.pick([hazard for hazard, seasons in HAZARDS if self.season in seasons])

    def warning(self, place: Place | None, time: Text | None) -> Text:
        name, city, until = self.warning_name(), self.city, self.limit()
        colour, hazard = name
        english = _warning_en(name)
        german = f"{colour.de} {hazard.de}" if colour else hazard.de
        return Text(
            f"{'an' if english[0] in 'aeiou' else 'a'} {english} is in force for {city.en} until {until.en}",
            f"une {_warning_fr(name)} est en vigueur pour {city.fr} jusqu'à {until.fr}",
            f"für {city.de} gilt bis {until.de} eine {german}",
            f"{city.zh}的{_warning_zh(name)}持续至{until.zh}",
        )

    def warning_changed(self, place: Place | None, time: Text | None) -> Text:
        _, hazard = self.warning_name()
        city = self.city
        english, french = (
            f"the {hazard.en} warning for {city.en} has been",
            f"l'alerte {hazard.fr} pour {city.fr} a été",
        )
        german, chinese = f"die {hazard.de} für {city.de} wurde", f"{city.zh}的{hazard.zh}预警已"
        if self.chance(0.5):
            return Text(f"{english} lifted", f"{french} levée", f"{german} aufgehoben", f"{chinese}解除")
        until = self.limit()
        return Text(
            f"{english} extended until {until.en}",
            f"{french} prolongée jusqu'à {until.fr}",
            f"{german} bis {until.de} verlängert",
            f"{chinese}延长至{until.zh}",
        )

    def chance_of(self, place: Place | None, time: Text | None) -> Text:
        share = self.between(10, 90, 5)
        what = self.pick([chance for chance, seasons in CHANCES if self.season in seasons])
        french = what.fr if what.fr.startswith("d'") else f"de {what.fr}"
        article = "an" if str(share).startswith("8") else "a"
        return self.clause(
            f"there is {article} {share}% chance of {what.en}",
            f"il y a {share}{NARROW_SPACE}% de risque {french}",
            (f"die Wahrscheinlichkeit für {what.de}", "liegt", "", f"bei {share}{NO_BREAK_SPACE}%"),
            f"{what.zh}的概率为{share}%",
            place,
            time,
        )

    def amount(self, place: Place | None, time: Text | None) -> Text:
        by, where = self.limit(), place or self.city.place()
        if self.season == "w":
            num = f"{self.between(2, 60)}"
            return Text(
                f"up to {num} centimetres of fresh snow may fall {where.en} by {by.en}",
                f"jusqu'à {num} centimètres de neige fraîche pourraient tomber {where.fr} d'ici {by.fr}",
                f"{where.de} können bis {by.de} bis zu {num} Zentimeter Neuschnee fallen",
                f"到{by.zh}，{where.zh}的新增积雪可能达到{num}厘米",
            )
        millimetres = self.between(2, 60)
        return Text(
            f"up to {millimetres}.5 millimetres of rain may fall {where.en} by {by.en}",
            f"jusqu'à {millimetres},5 millimètres de pluie pourraient tomber {where.fr} d'ici {by.fr}",
            f"{where.de} können bis {by.de} bis zu {millimetres},5 Millimeter Regen fallen",
            f"到{by.zh}，{where.zh}的降雨量可能达到{millimetres}.5毫米",
        )

    def turning(self, place: Place | None, time: Text | None) -> Text:
        """Write that the weather eases or grows at an hour of the day."""
        what = self.pick([named for named in WEATHER_SUBJECTS if self.season in named.seasons])
        verb_en, verb_fr, verb_de, particle_de, verb_zh = self.pick(what.changes)
        hour = self.between(1, 23)
        half = (hour - 1) % 12 + 1
        noon = "noon" if hour == 12 else f"{half} {'am' if hour < 12 else 'pm'}"
        part = (
            "凌晨" if hour < 6 else "上午" if hour < 12 else "中午" if hour == 12 else "下午" if hour < 18 else "晚上"
        )
        where_en, where_fr = (f" {place.en}", f" {place.fr}") if place else ("", "")
        where_de, where_zh = (f" {place.de}", f"{place.zh}的") if place else ("", "")
        return Text(
            f"{what.en} will {verb_en}{where_en} around {noon}",
            f"{what.fr} {verb_fr}{where_fr} vers {hour} h",
            f"{what.de} {verb_de}{where_de} gegen {hour} Uhr {particle_de}",
            f"{where_zh}{what.zh}将在{part}{half}点左右{verb_zh}",
        )

    def snow_line(self, place: Place | None, time: Text | None) -> Text:
        height = _thousands(self.between(300, 2400, 100))
        english, french, german, chinese = self.pick((
            ("drop", "s'abaissera", "sinkt", "降至"),
            ("rise", "remontera", "steigt", "升至"),
        ))  # fmt: skip
        return self.clause(
            f"the snow line will {english} to {height.en} metres",
            f"la limite pluie-neige {french} à {height.fr} mètres",
            ("die Schneefallgrenze", german, "", f"auf {height.de} Meter"),
            f"雪线将{chinese}海拔{height.zh}米",
            None,
            time,
        )

    def rain_to_snow(self, place: Place | None, time: Text | None) -> Text:
        height = _thousands(self.between(300, 2400, 100))
        when_en, when_fr, when_de = (f" {time.en}", f" {time.fr}", f" {time.de}") if time else ("", "", "")
        when_zh = time.zh if time else ""
        return Text(
            f"above {height.en} metres, the rain will turn to snow{when_en}",
            f"au-dessus de {height.fr} mètres, la pluie se transformera en neige{when_fr}",
            f"oberhalb von {height.de} Metern geht der Regen{when_de} in Schnee über",
            f"{when_zh}海拔{height.zh}米以上地区将由雨转雪",
        )

    def visibility(self, place: Place | None, time: Text | None) -> Text:
        distance = self.between(50, 900, 50)
        return self.clause(
            f"visibility will drop below {distance} metres",
            f"la visibilité tombera à moins de {distance} mètres",
            ("die Sichtweite", "sinkt", "", f"auf unter {distance} Meter"),
            f"能见度将降至{distance}米以下",
            place,
            time,
            french_place_first=True,
        )

    def waves(self, place: Place | None, time: Text | None) -> Text:
        height = self.between(2, 9)
        return self.clause(
            f"waves may reach {height} metres",
            f"les vagues pourraient atteindre {height} mètres",
            ("die Wellen", "können", "", f"bis zu {height} Meter hoch werden"),
            f"浪高可能达到{height}米",
            self.pick(SEAS),
            time,
        )

    def advice(self, place: Place | None, time: Text | None) -> Text:
        who = self.pick(AUDIENCES)
        advice = self.pick([text for text, seasons in ADVICE if self.season in seasons])
        verb, rest = advice.de.split("|")
        if place is None:
            return Text(
                f"{who.en} {advice.en}", f"{who.fr} {advice.fr}", f"{who.de} {verb} {rest}", f"{who.zh}{advice.zh}"
            )
        return Text(
            f"{who.en} {place.en} {advice.en}",
            f"{place.fr}, {who.fr} {advice.fr}",
            f"{who.de} {place.de} {verb} {rest}",
            f"{place.zh}的{who.zh}{advice.zh}",
        )


def _join_words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _join(texts: Sequence[Text], en: str, fr: str, de: str, zh: str) -> Text:
    glue = Text(en, fr, de, zh)
    names = [field.name for field in fields(Text)]
    return Text(*(glue.in_language(name).join(text.in_language(name) for text in texts) for name in names))


def _sentence(clause: Text) -> Text:
    en, fr, de = (text[0].upper() + text[1:] + "." for text in (clause.en, clause.fr, clause.de))
    return Text(en, fr, de, clause.zh + "。")


def _both(first: City, second: City) -> Place:
    return Place(
        f"in {first.en} and {second.en}",
        f"{first.at_fr()} et {second.at_fr()}",
        f"in {first.de} und {second.de}",
        f"{first.zh}和{second.zh}",
    )


def _degrees(num: int) -> Text:
    size = abs(num)
    minus_en, minus_fr, minus_de, minus_zh = ("minus ", "moins ", "minus ", "零下") if num < 0 else ("", "", "", "")
    return Text(
        f"{minus_en}{size} degree{'' if size == 1 else 's'}",
        f"{minus_fr}{size} degré{'s' if size > 1 else ''}",
        f"{minus_de}{size} Grad",
        f"{minus_zh}{size}度",
    )


def _thousands(num: int) -> Text:
    english = f"{num:,}"
    return Text(english, english.replace(",", NARROW_SPACE), english.replace(",", "."), str(num))


def _warning_en(name: tuple[Text | None, Text]) -> str:
    colour, hazard = name
    return _join_words(colour.en if colour else "", hazard.en, "warning")


def _warning_fr(name: tuple[Text | None, Text]) -> str:
    colour, hazard = name
    return _join_words("alerte", colour.fr if colour else "", hazard.fr)


def _warning_zh(name: tuple[Text | None, Text]) -> str:
    colour, hazard = name
    return f"{hazard.zh}{colour.zh if colour else ''}预警"
