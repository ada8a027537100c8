r"""What units are: names, symbols and prefixes, and how they make compound ones.

    parsed_unit("km/h") == parsed_unit("kilometers per hour") == {"km": 1, "h": -1}

Words for what is counted (eggs, ways, students) are those of the word problems that people train on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# One line, one unit: the first spelling is its name.
_SPELLINGS = (
    "$ dollar dollars usd buck bucks", "€ euro euros eur", "£ pounds-sterling gbp", "¥ yen yuan rmb",
    "cent cents ¢", "₹ rupee rupees", "peso pesos", "penny pennies", "nickel nickels", "dime dimes",
    "% percent percentage pct", r"^\circ degree degrees deg", "in inch inches", "ft foot feet", "yd yard yards",
    "mi mile miles", "lb pound pounds lbs", "oz ounce ounces", "ton tons tonne tonnes", "s second seconds sec secs",
    "min minute minutes mins", "h hour hours hr hrs", "day days workday workdays", "week weeks wk wks",
    "month months", "year years yr yrs", "decade decades", "century centuries", "mph", "kph", "rpm",
    "unit units", "rad radian radians", "revolution revolutions", "arcsec arcsecond arcseconds", "gallon gallons gal",
    "quart quarts", "pint pints", "cup cups", "teaspoon teaspoons tsp", "tablespoon tablespoons tbsp",
    "acre acres", "hectare hectares", "bushel bushels", "knot knots", "carat carats", "atm atmosphere atmospheres",
    "torr", "mmhg", "psi", "hp horsepower", "dyn dyne dynes", "erg ergs", "å angstrom angstroms", "au", "ly",
    "parsec parsecs pc", "molar", "byte bytes", "bit bits", "kb kilobyte kilobytes", "mb megabyte megabytes",
    "gb gigabyte gigabytes", "lightyear lightyears", "fahrenheit", "celsius", "gauss",
    "magnitude magnitudes",
    "photon photons", "a.m am", "p.m pm",
)  # fmt: skip
_PREFIXES = {
    "n": "nano", "μ": "micro", "µ": "micro", "m": "milli", "c": "centi", "d": "deci", "k": "kilo", "M": "mega",
    "G": "giga", "T": "tera",
}  # fmt: skip
_BASES = {  # symbol: names that take prefixes
    "m": "meter metre", "g": "gram", "l": "liter litre", "L": "liter litre", "Hz": "hertz", "J": "joule", "W": "watt",
    "V": "volt", "N": "newton", "Pa": "pascal", "K": "kelvin", "mol": "mole", "A": "ampere amp", "C": "coulomb",
    "F": "farad", "H": "henry", "T": "tesla", "Ω": "ohm", "eV": "electronvolt", "cal": "calorie", "bar": "bar",
    "s": "second", "Wh": "watthour", "Wb": "weber", "cd": "candela", "lm": "lumen", "lx": "lux", "Bq": "becquerel",
    "Sv": "sievert",
}  # fmt: skip
_ALIASES = {"gm": "g", "gms": "g", "kilo": "kg", "kilos": "kg", "kgs": "kg", "kms": "km", "cms": "cm"}
_WORDS = """
people person persons children child men man women woman feet fish sheep mice geese deer students student ways way
pieces points pages books apples slices marbles cookies boxes cards eggs choices cars bags games oranges cans pencils
bottles dogs balls packs tickets blocks trees bars candies bills flowers balloons girls words digits friends shirts
kids stickers steps chairs legs members boys rows players seeds bananas coins cats plants roses cupcakes pens
customers animals sandwiches toys questions cows letters birds pizzas possibilities beads stamps crayons cakes guests
items terms pies leaves cases servings sticks glasses seats chickens employees songs goals floors shells classes
notebooks photos brownies ducks options episodes pills rolls tiles fruits candles votes rooms tables groups dolls
spots potatoes sheets lollipops houses packages values loaves tomatoes meals trips strawberries passengers jellybeans
teachers solutions adults chips donuts paintings cartons crates batches triangles puppies plates sides hats beans
rounds muffins seashells laps necklaces chocolates movies stars problems socks caps scoops pictures goats messages
horses apartments marks sodas arrangements jars spoons pets gifts peaches pots lines bricks bracelets kittens windows
stripes frogs turtles gumballs trucks beds towels packets babies widgets heads tires carrots shoes matches vertices
workers pigs lemons segments phones planks followers bulbs bees mangoes elements grapes walls containers baskets
peppers nights bikes dresses ants nuts buttons knives dishes emails bears holes bugs places faces shots erasers logs
bones nails rabbits buckets earrings markers mushrooms males handshakes crackers parents blueberries seasons sweaters
edges divisors tulips families lessons visitors stitches records crabs combinations objects sweets copies vehicles
siblings rectangles texts drinks lions watermelons stories rings females decorations insects hens burgers vegetables
sentences cones chapters flights teams envelopes articles patients cherries pins rocks pancakes diagonals bales notes
berries marshmallows homes machines albums strings sections answers spiders onions tests intersections coats acorns
cities citizens bacteria atoms calories integers primes subsets functions permutations committees outcomes regions
paths polynomials numbers factors zeros moves turns roots squares cubes circles codes passwords sequences schedules
routes daps knicks penguins clips bushes transistors
"""
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_SMALL = "a an the of in total altogether each left remaining long wide tall high deep old away apart only exactly"
_FILLERS = frozenset(_SMALL.split())


def _named() -> tuple[dict[str, str], dict[str, str]]:
    """Symbols, whose capitals count, and names, whose do not; each with the unit's one name."""
    names = {spelling: line.split()[0] for line in _SPELLINGS for spelling in line.split()}
    symbols: dict[str, str] = {}
    for symbol, words in _BASES.items():
        unit = symbol if symbol != "L" else "l"
        for short, long in {"": "", **_PREFIXES}.items():
            symbols.setdefault(short + symbol, short.replace("µ", "μ") + unit)
            for word in words.split():
                for name in (long + word, f"{long}{word}s"):
                    names.setdefault(name, short.replace("µ", "μ") + unit)
    for symbol in ("min", "cd", "ft", "in", "Pa"):  # not milli-inches, and the like
        symbols.pop(symbol, None)
    symbols["Pa"], symbols["cd"] = "Pa", "cd"
    for spelling, unit in _ALIASES.items():
        names.setdefault(spelling, unit)
    for symbol, unit in symbols.items():  # people write khz and kpa
        if len(symbol) > 1:
            names.setdefault(symbol.lower(), unit)
    return symbols, names


SYMBOLS, NAMES = _named()
COUNTED = frozenset(_WORDS.split())
_TOKEN = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)?|[$€£¥₹%¢]|\^\{?(-?\d)\}?|[/()]|\\circ")


def unit_named(word: str) -> str | None:
    """The name of the unit that one word or symbol is; None if it is none."""
    return SYMBOLS.get(word) or NAMES.get(word.lower()) or NAMES.get(word.lower().removesuffix("."))


def is_counted(word: str) -> bool:
    return word.lower() in COUNTED or f"{word.lower()}s" in COUNTED


def is_filler(word: str) -> bool:
    return word.lower() in _FILLERS or word.lower() in _POWERS or word.lower() == "per"


def parsed_unit(text: str) -> Mapping[str, int]:
    r"""Each unit of a compound one with its power. Example: "kg m^2/s^2" -> {"kg": 1, "m": 2, "s": -2}.

    A word that is no unit counts as one (18 eggs), unless a unit stands before it: "5 feet long" are feet.
    """
    found: dict[str, int] = {}
    sign, group_sign, power, last = 1, 1, 1, ""
    for token in _TOKEN.finditer(text.replace("~", " ")):
        word = token[0]
        if token[1]:
            if last:
                found[last] *= int(token[1])
            continue
        if word in ("/", "per", "Per"):
            sign = -1
        elif word == "(":
            group_sign = sign
        elif word == ")":
            group_sign = sign = 1
        elif word.lower() in _POWERS:
            if word.lower() in ("squared", "cubed") and last:
                found[last] *= _POWERS[word.lower()]
            else:
                power = _POWERS[word.lower()]
        elif (unit := unit_named(word)) or not (word.lower() in _FILLERS or (found and any(map(unit_named, found)))):
            last = unit or _singular(word.lower())
            found[last] = found.get(last, 0) + sign * power
            sign, power = group_sign, 1
    return {name: exponent for name, exponent in found.items() if exponent}


def written_unit(units: Mapping[str, int]) -> str:
    """One spelling of a compound unit: "km / h", "cm^2"."""
    if dict(units) == {"mi": 1, "h": -1}:
        return "mph"
    if dict(units) == {"km": 1, "h": -1}:
        return "kph"
    above = [name + (f"^{power}" if power > 1 else "") for name, power in sorted(units.items()) if power > 0]
    below = [name + (f"^{-power}" if power < -1 else "") for name, power in sorted(units.items()) if power < 0]
    return " ".join([*above, *(["/", *below] if below else [])])


def _singular(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word
