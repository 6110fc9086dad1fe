"""Sentences that only the sentence before makes clear: "it" is a word of another gender in each language.

"A cold front is approaching Lyon." "It will weaken on Monday." The front is masculine in French and feminine in German;
Chinese repeats the noun. Knows no prompts.
"""

from dataclasses import dataclass
from random import Random

from hymt_batch.demo import grammar
from hymt_batch.demo.grammar import City, Text
from hymt_batch.demo.invented import pick


@dataclass(frozen=True, slots=True)
class Subject:
    """What a pronoun stands for: its English words with the article, its pronouns, its Chinese noun."""

    en: str
    fr: str  # il, elle, ils or elles
    de: str  # er, sie or es; plural where `fr` is
    zh: str

    @property
    def is_plural(self) -> bool:
        return self.fr in ("ils", "elles")


SUBJECTS = (
    Subject("a cold front", "il", "sie", "冷锋"),
    Subject("a warm front", "il", "sie", "暖锋"),
    Subject("a low", "elle", "es", "低气压"),
    Subject("a high", "il", "es", "高气压"),
    Subject("a storm", "elle", "er", "风暴"),
    Subject("a hurricane", "il", "er", "飓风"),
    Subject("a heatwave", "elle", "sie", "热浪"),
    Subject("a cold spell", "elle", "sie", "寒潮"),
    Subject("a rain band", "elle", "es", "雨带"),
    Subject("a cloud bank", "il", "sie", "云团"),
    Subject("a tornado", "elle", "er", "龙卷风"),
    Subject("snow showers", "elles", "sie", "阵雪"),
    Subject("strong winds", "ils", "sie", "大风"),
    Subject("thunderstorms", "ils", "sie", "雷暴"),
    Subject("heavy showers", "elles", "sie", "强阵雨"),
)


def write(rng: Random) -> tuple[str, Text]:
    """Write one or two English sentences that name something, and the sentence in which a pronoun stands for it."""
    subject, city = pick(rng, SUBJECTS), pick(rng, grammar.CITIES)
    return _context(subject, rng), _sentence(subject, city, rng)


def _context(subject: Subject, rng: Random) -> str:
    city, region, day = pick(rng, grammar.CITIES).en, pick(rng, grammar.REGIONS).en, pick(rng, grammar.DAYS).en
    verb = "are" if subject.is_plural else "is"
    words = pick(rng, (
        f"{subject.en} {verb} approaching from the {pick(rng, ('north', 'south', 'east', 'west'))}",
        f"{subject.en} {verb} approaching {city}",
        f"{subject.en} {verb} expected {region}",
        f"{subject.en} {verb} expected in {city} on {day}",
        f"{subject.en} will form near {city} on {day}",
        f"there {verb} {subject.en} over {city}",
    ))  # fmt: skip
    sentence = words[0].upper() + words[1:] + "."
    draw = rng.random()
    if draw < 0.6 or subject.is_plural:
        return sentence
    degrees = int(rng.random() * 20) + 5
    return f"{pick(rng, (f'Temperatures will reach {degrees} degrees', f'It will be cloudy in {city}'))}. {sentence}"


def _sentence(subject: Subject, city: City, rng: Random) -> Text:
    fr, de, zh = subject.fr.capitalize(), subject.de.capitalize(), subject.zh
    plural = subject.is_plural
    en = "They" if plural else "It"
    day, part = pick(rng, grammar.DAYS), pick(rng, grammar.DAY_PARTS)
    when = pick(rng, (
        Text(f"on {day.en}", day.fr, f"am {day.de}", day.zh),
        Text(f"on {day.en} {part.en}", f"{day.fr} {part.fr}", f"am {day.de}{part.de}", f"{day.zh}{part.zh}"),
        pick(rng, grammar.TOMORROW),
        pick(rng, grammar.NEAR_TIMES[:5]),
    ))  # fmt: skip
    until = pick(rng, grammar.DAYS)
    ont = "ont" if plural else "a"
    agreement = ("e" if subject.fr.startswith("elle") else "") + ("s" if plural else "")
    return pick(rng, (
        Text(
            f"{en} will reach {city.en} {when.en}.",
            f"{fr} atteindr{ont} {city.fr} {when.fr}.",
            f"{de} {'erreichen' if plural else 'erreicht'} {city.de} {when.de}.",
            f"{zh}将在{when.zh}到达{city.zh}。",
        ),
        Text(
            f"{en} will weaken {when.en}.",
            f"{fr} faiblir{ont} {when.fr}.",
            f"{de} {'schwächen' if plural else 'schwächt'} sich {when.de} ab.",
            f"{zh}将在{when.zh}减弱。",
        ),
        Text(
            f"{en} will last until {until.en}.",
            f"{fr} durer{ont} jusqu'à {until.fr}.",
            f"{de} {'dauern' if plural else 'dauert'} bis {until.de}.",
            f"{zh}将持续至{until.zh}。",
        ),
        Text(
            f"{en} will move away {when.en}.",
            f"{fr} s'éloigner{ont} {when.fr}.",
            f"{de} {'ziehen' if plural else 'zieht'} {when.de} ab.",
            f"{zh}将在{when.zh}远离。",
        ),
        Text(
            f"{en} {'are' if plural else 'is'} expected in {city.en} {when.en}.",
            f"{fr} {'sont' if plural else 'est'} attendu{agreement} {city.at_fr()} {when.fr}.",
            f"{de} {'werden' if plural else 'wird'} {when.de} in {city.de} erwartet.",
            f"预计{zh}{when.zh}出现在{city.zh}。",
        ),
    ))  # fmt: skip
