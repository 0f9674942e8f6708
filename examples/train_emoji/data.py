"""Fetch emoji art, rasterise it once to 128x128, colour it, caption it.

    python data.py            # downloads with npm, writes work/data.npz and work/pictures.json

Pictures are Microsoft's Fluent emoji, in 3D (npm `@lobehub/fluent-emoji-3d`) and flat (npm
`@iconify-json/fluent-emoji-flat`); names come from `unicode-emoji-json` and keywords from `emojibase-data`. All are
MIT. Nothing is committed: the packages are fetched with the plain npm client.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

WORK = Path(__file__).parent / "work"
SIZE = 128
PACKAGES = ("@lobehub/fluent-emoji-3d@1.1.0", "@iconify-json/fluent-emoji-flat@1.2.6",
            "unicode-emoji-json@0.9.0", "emojibase-data@17.0.0")  # fmt: skip
STYLES = ("3d", "flat")
FLAT = 0.15  # the share of draws that are flat
HELD = 9  # every ninth concept is never shown flat: what "a flat" one of them looks like is measured

# colour word -> (hue in degrees, or None for the achromatic ones; saturation factor; value factor)
COLOURS: dict[str, tuple[float | None, float, float]] = {
    "red": (357, 1.1, 0.95), "orange": (26, 1.1, 1.0), "yellow": (50, 1.0, 1.05), "green": (125, 0.95, 0.9),
    "teal": (178, 1.0, 0.9), "blue": (216, 1.0, 1.0), "purple": (275, 0.9, 0.95), "pink": (330, 0.7, 1.1),
    "brown": (22, 0.85, 0.6), "black": (None, 0.0, 0.3), "white": (None, 0.0, 1.6), "gray": (None, 0.0, 0.8),
}  # fmt: skip
# Where a hue is plainly that colour; between the ranges a person would hesitate.
HUE_WORDS = ((0, 10, "red"), (13, 27, "orange"), (33, 62, "yellow"), (80, 160, "green"), (170, 190, "teal"),
             (197, 235, "blue"), (250, 295, "purple"), (308, 338, "pink"), (342, 360, "red"))  # fmt: skip
SYNONYMS = {"teal": ["teal", "cyan", "turquoise"], "purple": ["purple", "violet"], "gray": ["gray", "grey"]}

# What people type for the pictures whose official name nobody would guess.
ALIASES = {
    "automobile": ["car"], "tangerine": ["orange", "orange fruit"], "hot beverage": ["coffee", "cup of coffee"],
    "deciduous tree": ["tree"], "evergreen tree": ["pine tree", "fir tree"], "airplane": ["plane"], "bicycle": ["bike"],
    "mobile phone": ["phone", "smartphone"], "laptop": ["computer"], "television": ["tv"], "sailboat": ["boat"],
    "high voltage": ["lightning", "lightning bolt"], "pile of poo": ["poop"], "wrapped gift": ["present", "gift"],
    "birthday cake": ["cake"], "hamburger": ["burger"], "french fries": ["fries"], "beer mug": ["beer"],
    "glass of milk": ["milk"], "house": ["home"], "soccer ball": ["football", "ball"], "light bulb": ["lamp"],
    "rose": ["flower"], "hibiscus": ["flower"], "slice of pizza": ["pizza"], "pizza": ["slice of pizza"],
    "t-shirt": ["shirt"], "glasses": ["eyeglasses"], "locomotive": ["train", "steam train"],
    "motorcycle": ["motorbike"],
    "delivery truck": ["truck"], "steaming bowl": ["soup", "ramen"], "cooking": ["fried egg"], "top hat": ["hat"],
    "sun": ["sunshine"], "star": ["yellow star"], "cloud with rain": ["rain"], "sport utility vehicle": ["jeep"],
    "baby chick": ["chick"], "lady beetle": ["ladybug"], "honeybee": ["bee"], "spouting whale": ["whale"],
    "tropical fish": ["fish"], "teddy bear": ["toy bear"], "sunglasses": ["dark glasses"], "fire": ["flame"],
    "soft ice cream": ["ice cream cone", "ice cream"], "shortcake": ["strawberry cake"], "skull": ["skeleton head"],
    "smiling face with sunglasses": ["cool face"], "crescent moon": ["moon"], "wine glass": ["wine", "red wine"],
    "running shoe": ["shoe", "sneaker"], "alarm clock": ["clock"], "open book": ["book"], "camera": ["photo camera"],
    "flying saucer": ["ufo"], "water wave": ["wave", "sea wave"], "artist palette": ["paint palette"],
    "crown": ["golden crown"], "gem stone": ["diamond", "gem"], "money bag": ["bag of money"],
}  # fmt: skip
WEIGHT = {"Smileys & Emotion": 1.0, "Animals & Nature": 1.5, "Food & Drink": 1.5, "Travel & Places": 1.0,
          "Activities": 1.0, "Objects": 1.0, "People & Body": 0.2, "Symbols": 0.2, "Flags": 0.4}  # fmt: skip
COMMON = 2.5  # extra weight of names of one word, or with an everyday alias
EVERYDAY = 2.2  # and of what people ask for first
EVERYDAY_NAMES = frozenset(
    """
red apple|green apple|banana|strawberry|pizza|hamburger|birthday cake|soft ice cream|hot beverage|cherries|grapes|
watermelon|lemon|tangerine|pineapple|peach|pear|avocado|carrot|tomato|broccoli|mushroom|bread|cheese wedge|doughnut|
cookie|french fries|hot dog|taco|sushi|egg|lollipop|cupcake|wine glass|beer mug|teapot|
cat|cat face|dog|dog face|octopus|frog|elephant|penguin|butterfly|tropical fish|fish|lion|panda|rabbit|rabbit face|
honeybee|tiger|tiger face|horse|horse face|unicorn|cow|pig|pig face|mouse face|monkey face|bear|fox|wolf|koala|chicken|
bird|owl|duck|eagle|parrot|turtle|snake|dragon|whale|dolphin|shark|crab|snail|lady beetle|spider|giraffe|zebra|
sunflower|rose|tulip|cherry blossom|deciduous tree|evergreen tree|palm tree|cactus|four leaf clover|maple leaf|
automobile|rocket|airplane|sailboat|train|locomotive|house|bicycle|castle|bus|ambulance|fire engine|police car|tractor|
motorcycle|delivery truck|helicopter|ship|anchor|tent|bridge at night|church|school|
guitar|balloon|umbrella|soccer ball|basketball|trophy|drum|violin|trumpet|key|light bulb|candle|camera|
television|laptop|mobile phone|alarm clock|hourglass not done|books|open book|pencil|scissors|hammer|magnet|backpack|
t-shirt|jeans|dress|running shoe|crown|top hat|glasses|sunglasses|wrapped gift|teddy bear|gem stone|money bag|chair|
bed|couch and lamp|door|toilet|telescope|microscope|robot|alien|ghost|skull|pile of poo|clown face|
sun|sun with face|crescent moon|full moon|star|cloud|rainbow|snowflake|snowman|fire|high voltage|water wave|
red heart|broken heart|smiling face with sunglasses|grinning face|smiling face with heart-eyes|face with tears of joy|
crying face|angry face|thinking face|sleeping face|christmas tree|jack-o-lantern|fireworks|party popper
""".replace("\n", "").split("|")
)
HARD = 2.2  # and of those among them that the last sheet showed to be learnt least
HARD_NAMES = {"umbrella", "soccer ball", "train", "sailboat", "dog", "airplane", "rabbit", "honeybee", "octopus",
              "hot beverage", "bicycle", "tropical fish", "cat"}  # fmt: skip
DROP = re.compile(
    r"button|keycap|arrow|o’clock|-thirty|^(man|woman|men|women)\b.|[:,] (man|woman|men|women)|family|"
    r"^couple|^kiss:|holding hands|"
    r"facing right|Japanese|flag:|skin tone|regional|trigram|^input|hundred points|copyright|registered|trade mark|"
    r"^(Aries|Taurus|Gemini|Cancer|Leo|Virgo|Libra|Scorpio|Sagittarius|Capricorn|Aquarius|Pisces|Ophiuchus)$|"
    r"no one under|prohibited|^no |non-potable|eight-spoked|currency|curly loop|part alternation|wavy|infinity|"
    r"^(up|down|left|right)"
)
COLOUR_WORD = re.compile(r"\b(red|orange|yellow|green|light blue|blue|purple|pink|brown|black|white|grey|gray)\b ?")


@dataclass(frozen=True)
class Picture:
    """One captioned picture; rows of work/data.npz `rgba` u8 [N,128,128,4] are in the same order."""

    name: str  # "red apple"
    base: str  # the name without its colour word: "apple"
    aliases: list[str]  # other things to call it
    tags: list[str]  # loose keywords
    weight: float  # how often it is drawn
    colour: str | None  # measured dominant colour word, None if unclear
    variants: list[str]  # colour words it can be painted in
    style: str = "3d"


def fetch() -> Path:
    """npm pack and unpack the packages into work/npm; returns that folder."""
    folder = WORK / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        short = package.rsplit("@", 1)[0].split("/")[-1]
        if not (folder / short).exists():
            name = subprocess.run(
                ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
            )
            with tarfile.open(folder / name.stdout.strip().splitlines()[-1]) as tar:
                tar.extractall(folder / (short + ".part"), filter="data")
            (folder / (short + ".part")).rename(folder / short)
    return folder


def rasterise(picture: Image.Image, size: int = SIZE) -> np.ndarray:
    """-> [size,size,4] u8, straight alpha, 1/32 of margin. Resized premultiplied, or edges would fringe."""
    rgba = np.asarray(picture.convert("RGBA"), np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    margin = size // 32
    inner = size - 2 * margin
    planes = [
        np.asarray(Image.fromarray(rgba[..., c]).resize((inner, inner), Image.Resampling.LANCZOS)) for c in range(4)
    ]
    small = np.clip(np.stack(planes, -1), 0, 1)
    small[..., :3] = np.where(small[..., 3:] > 1e-3, small[..., :3] / np.maximum(small[..., 3:], 1e-3), 1)
    out = np.zeros((size, size, 4), np.float32)
    out[margin:-margin, margin:-margin] = np.clip(small, 0, 1)
    return (out * 255 + 0.5).astype(np.uint8)


def draw_svg(body: str) -> Image.Image:
    """An icon of 32 units -> 256x256 pixels."""
    import resvg_py

    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="256" height="256">'
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=f"{head}{body}</svg>"))))


def on_white(rgba: np.ndarray, ground: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """[...,4] u8 -> [...,3] u8 over a white background, or another."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * alpha + np.float32(ground) * (1 - alpha) + 0.5).astype(np.uint8)


def rgb_to_hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rgb in 0..1 [...,3] -> hue in degrees, saturation, value."""
    top, low = rgb.max(-1), rgb.min(-1)
    span = np.maximum(top - low, 1e-6)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(top == r, (g - b) / span % 6, np.where(top == g, (b - r) / span + 2, (r - g) / span + 4)) * 60
    return hue, (top - low) / np.maximum(top, 1e-6), top


def hsv_to_rgb(hue: np.ndarray, sat: np.ndarray, val: np.ndarray) -> np.ndarray:
    def channel(n: int) -> np.ndarray:
        k = (n + hue / 60) % 6
        return val - val * sat * np.clip(np.minimum(k, 4 - k), 0, 1)

    return np.stack([channel(5), channel(3), channel(1)], -1)


def hue_distance(a: np.ndarray, b: float) -> np.ndarray:
    return np.abs((a - b + 180) % 360 - 180)


def dominant(rgba: np.ndarray) -> tuple[float | None, float]:
    """Dominant hue (mode of the saturation-weighted histogram), None when mostly grey; its share of the foreground."""
    hue, sat, val = rgb_to_hsv(rgba[..., :3].astype(np.float32) / 255)
    alpha = rgba[..., 3] / 255
    weight = alpha * sat * val * (sat > 0.2)
    if weight.sum() < 0.12 * alpha.sum():
        return None, 1.0
    bins = np.bincount((hue.ravel() / 10).astype(int) % 36, weight.ravel(), 36)
    smooth = bins + 0.7 * (np.roll(bins, 1) + np.roll(bins, -1))
    mode = float(np.argmax(smooth) * 10 + 5)
    near = (hue_distance(hue, mode) < 30) & (sat > 0.2)
    vec = (weight * near * np.exp(1j * np.deg2rad(hue))).sum()
    return float(np.rad2deg(np.angle(vec)) % 360), float((alpha * near).sum() / alpha.sum())


def colour_word(rgba: np.ndarray) -> str | None:
    """The one word for the picture's colour, None where a person would hesitate."""
    hue, share = dominant(rgba)
    rgb, alpha = rgba[..., :3].astype(np.float32) / 255, rgba[..., 3] / 255
    _, sat, val = rgb_to_hsv(rgb)
    if hue is None:
        grey_value = float((val * alpha).sum() / alpha.sum())
        return "white" if grey_value > 0.82 else "black" if grey_value < 0.35 else "gray"
    if share < 0.5:
        return None
    near = alpha * (hue_distance(*rgb_to_hsv(rgb)[:1], hue) < 30) * (sat > 0.2)
    s, v = float((sat * near).sum() / near.sum()), float((val * near).sum() / near.sum())
    if (hue > 310 or hue < 12) and v > 0.85 and s < 0.55:
        return "pink"
    if (hue < 45 or hue > 340) and v < 0.72 and s < 0.75:
        return "brown"
    if hue < 30 and s < 0.65:
        return None  # tan: neither orange nor brown
    for low, high, word in HUE_WORDS:
        if low <= hue <= high:
            return word
    return None


def paint(rgba: np.ndarray, word: str) -> np.ndarray:
    """Move the dominant colour of u8 [H,W,4] to `word`; other hues (a leaf, a face's features) stay as they are."""
    target, sat_factor, val_factor = COLOURS[word]
    rgb = rgba[..., :3].astype(np.float32) / 255
    hue, sat, val = rgb_to_hsv(rgb)
    mode, _ = dominant(rgba)
    if mode is None:  # grey things are tinted: their shading survives as value
        mask = np.clip((0.35 - sat) / 0.15, 0, 1) * np.clip((val - 0.15) / 0.15, 0, 1)
        new_sat, new_val, spread = np.full_like(sat, 0.72), val**1.5 if target is not None else val, 0.0
    else:
        mask = np.clip((58 - hue_distance(hue, mode)) / 16, 0, 1) * np.clip((sat - 0.08) / 0.12, 0, 1)
        new_sat, new_val, spread = np.clip(sat * 1.05, 0, 1), val, 0.35
    if target is None:
        luma = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
        luma = (
            luma / max(float(np.percentile(luma[rgba[..., 3] > 128], 90)), 0.3) * 0.85
        )  # yellow and navy give the same greys
        new_val = np.clip(0.72 + 0.28 * luma**1.5, 0, 1) if word == "white" else np.clip(luma * val_factor, 0, 1)
        new_hue, new_sat = hue, np.zeros_like(sat)
    else:
        twist = (hue - mode + 180) % 360 - 180 if mode is not None else 0.0
        new_hue, new_sat = (target + spread * twist) % 360, np.clip(new_sat * sat_factor, 0, 1)
        lift = 1.0 if mode is None or word == "brown" else 0.92 / max(float(np.percentile(val[mask > 0.5], 75)), 0.5)
        new_val = np.clip(new_val * lift * val_factor, 0, 1)
    painted = hsv_to_rgb(np.broadcast_to(new_hue, val.shape), new_sat, new_val)
    out = rgba.copy()
    out[..., :3] = ((mask[..., None] * painted + (1 - mask[..., None]) * rgb) * 255 + 0.5).astype(np.uint8)
    return out


def clean(name: str) -> str:
    return (
        re.sub(r"\s+", " ", name.replace("’", "'").replace(":", "").replace("“", "").replace("”", "")).strip().lower()
    )


def describe(info: dict[str, str], tags: list[str], rgba: np.ndarray, names: dict[str, int]) -> Picture:
    name = clean(info["name"])
    stripped = COLOUR_WORD.sub("", name).strip()
    base = stripped if stripped else name
    aliases = list(ALIASES.get(name, []))
    if base != name and (names.get(base, 0) == 1 or name.startswith("red ")):
        aliases.append(base)
    if name.endswith(" face") and info["group"] == "Animals & Nature":
        aliases += [name.removesuffix(" face")] * 2
    weight = WEIGHT[info["group"]]
    if weight >= 1 and (aliases or " " not in base.removesuffix(" face")):
        weight *= COMMON
    if name in EVERYDAY_NAMES:
        weight *= EVERYDAY * (HARD if name in HARD_NAMES else 1)
    hue, share = dominant(rgba)
    shapes = re.search(r"circle|square|diamond|heart", name)
    paintable = (info["group"] not in ("People & Body", "Flags", "Symbols") or shapes) and (hue is None or share > 0.3)
    paintable = paintable and not re.search(r"rainbow|sign|globe|map|japan", name)
    return Picture(name, base, aliases, [clean(t) for t in tags], weight, colour_word(rgba),
                   list(COLOURS) if paintable else [])  # fmt: skip


def build() -> None:
    npm = fetch()
    info = {
        "".join(k.split("️")): v
        for k, v in json.loads((npm / "unicode-emoji-json/package/data-by-emoji.json").read_text()).items()
    }
    tags = {
        "".join(e["emoji"].split("️")): e.get("tags", [])
        for e in json.loads((npm / "emojibase-data/package/en/data.json").read_text())
    }
    flat = json.loads((npm / "fluent-emoji-flat/package/icons.json").read_text())["icons"]
    codes = json.loads((npm / "fluent-emoji-flat/package/chars.json").read_text())
    icon = {"".join(chr(int(c, 16)) for c in code.split("-") if c != "fe0f"): name for code, name in codes.items()}
    kept: list[tuple[str, np.ndarray]] = []
    others: list[np.ndarray] = []
    for path in sorted((npm / "fluent-emoji-3d/package/assets").glob("*.webp")):
        emoji = "".join(chr(int(c, 16)) for c in path.stem.replace("_e", "-e").split("-") if c != "fe0f")
        rgba = rasterise(Image.open(path))
        if emoji in info and not DROP.search(info[emoji]["name"]) and info[emoji]["group"] != "Flags":
            kept.append((emoji, rgba))
        else:
            others.append(rgba)
    names: dict[str, int] = {}
    for emoji, _ in kept:
        base = COLOUR_WORD.sub("", clean(info[emoji]["name"])).strip()
        names[base] = names.get(base, 0) + 1
    pictures = [describe(info[e], tags.get(e, []), rgba, names) for e, rgba in kept]
    drawn = [(i, rasterise(draw_svg(flat[icon[e]]["body"]))) for i, (e, _) in enumerate(kept) if icon.get(e) in flat]
    plain = [replace(pictures[i], style="flat", variants=[], colour=colour_word(rgba)) for i, rgba in drawn]
    rgba = np.stack([r for _, r in kept] + [r for _, r in drawn])
    np.savez_compressed(WORK / "data.npz", rgba=rgba, others=np.stack(others))
    (WORK / "pictures.json").write_text(json.dumps([asdict(p) for p in pictures + plain], indent=1))
    print(f"{len(pictures)} captioned pictures, {len(plain)} flat ones, {len(others)} more for the autoencoder, "
          f"{sum(len(p.variants) for p in pictures)} painted variants")  # fmt: skip


def load() -> tuple[list[Picture], np.ndarray, np.ndarray]:
    """-> pictures, rgba u8 [N,128,128,4], others u8 [M,128,128,4] (uncaptioned: skin tones, flags, buttons)."""
    arrays = np.load(WORK / "data.npz")
    return [Picture(**p) for p in json.loads((WORK / "pictures.json").read_text())], arrays["rgba"], arrays["others"]


def held_flat(known: list[Picture]) -> np.ndarray:
    """bool [N]: the flat pictures of every ninth concept, which the diffusion model never sees."""
    place = {p.name: i for i, p in enumerate(known) if p.style == "3d"}
    return np.array([p.style == "flat" and place[p.name] % HELD == 5 for p in known])


def held_out(known: list[Picture]) -> np.ndarray:
    """bool [N]: every twentieth concept, in every style, which the autoencoder never sees."""
    place = {p.name: i for i, p in enumerate(known) if p.style == "3d"}
    return np.array([place[p.name] % 20 == 7 for p in known])


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeio" or noun.startswith("umbrella") else "a ") + noun


def noun_of(picture: Picture, colour: str | None, rng: np.random.Generator) -> str:
    """What to call it: its name or an alias, and a colour word if it is painted, or now and then its own."""
    noun, word = picture.name, colour
    if picture.aliases and rng.random() < 0.35:
        noun = str(rng.choice(picture.aliases))
    if word is None and picture.colour is not None and rng.random() < 0.25:
        word = picture.colour
    if word is None:
        return noun
    noun = COLOUR_WORD.sub("", noun).strip() if noun != "orange" else noun
    return f"{rng.choice(SYNONYMS.get(word, [word]))} {noun or picture.base}"


def caption(picture: Picture, colour: str | None, rng: np.random.Generator) -> str:
    """A random caption; `colour` names the painted variant, None the picture as drawn. One in ten is empty."""
    if rng.random() < 0.1:
        return ""
    noun = noun_of(picture, colour, rng)
    if colour is None and picture.tags and rng.random() < 0.06:
        noun = str(rng.choice(picture.tags))
    form = rng.random()
    if picture.style == "flat":
        return f"a flat {noun}" if form < 0.5 else f"a flat emoji of {article(noun)}" if form < 0.85 else f"flat {noun}"
    if form < 0.6:
        text = article(noun)
    elif form < 0.75:
        text = noun
    elif form < 0.8:
        text = f"{rng.choice(['an', 'a 3d'])} emoji of {article(noun)}"
    elif form < 0.9 or not picture.tags:
        text = f"{noun} emoji"
    else:
        text = f"{article(noun)}, {rng.choice(picture.tags)}"
    return text


if __name__ == "__main__":
    build()
