"""Tables of the caption grammar. `[a|b]` marks alternatives; `{x}` a slot filled by captions.py.

Slots: {who} a subject, described when new and named otherwise; {n}, {m} names; {v}, {w} what they
do; {t} a toponym; {place} a place, described when new; {to} "to" / "back to" and a place; {side},
{out} left or right; {light} the weather.
"""

from __future__ import annotations

_CAM = "[the camera|the view|our view|the shot]"
_PAN = "[pans|glides|drifts|moves|slides]"
_COMES = "[comes|walks|wanders|strolls|steps]"
_OFF = "[walks off|wanders off|strolls away|walks away|heads out] to the {out}"
_AT = "[at|in]"
_LEAVE = "[leave|walk off|wander off]"
_PARTS = "[leaves|parts from]"
_FINDS = "[finds|meets|reaches]"

TEMPLATES: dict[str, tuple[str, ...]] = {
    "open": (
        f"{{light}}, {{who}} {{v}} {_AT} {{place}}",
        f"{{who}} {{v}} {_AT} {{place}}, {{light}}",
        f"[the story|the scene|our story|the day] [opens|begins|starts] {_AT} {{place}}, "
        "{light}, where {who} {v}",
        f"{_AT} {{place}}, {{who}} {{v}} {{light}}",
    ),
    "stay": (
        f"{{n}} {{v}} {_AT} {{t}}",
        f"[here|still|once more|again] {_AT} {{t}}, {{n}} {{v}}",
        f"{{n}} [calmly|gladly|gently|happily|quietly|softly|brightly] {{v}} {_AT} {{t}}",
        f"{_AT} {{t}}, {{n}} {{v}}",
        f"{{n}} [stays|lingers|remains|keeps on] {_AT} {{t}} and {{v}}",
    ),
    "stay_leave": (
        f"{{n}} {{v}} {_AT} {{t}}, then {_OFF}",
        f"{_AT} {{t}}, {{n}} {{v}} and then {_OFF}",
        f"{{n}} {{v}} [a little|a bit|briefly] {_AT} {{t}} before {{n}} {_OFF}",
    ),
    "meet": (
        f"{{who}} {_COMES} into {{t}} from the {{side}} and {{v}}",
        f"from the {{side}}, {{who}} {_COMES} into {{t}} and {{v}}",
        f"{{who}} [appears|arrives|shows up|turns up] {_AT} {{t}} from the {{side}} and {{v}}",
        "{who} enters {t} from the {side} and {v}",
        "{who} [visits|explores|reaches] {t} from the {side} and {v}",
    ),
    "return": (
        f"{{n}} {_COMES} back [to|into] {{t}} from the {{side}} and {{v}}",
        f"from the {{side}}, {{n}} {_COMES} back [to|into] {{t}} and {{v}}",
        "{n} [returns to|comes home to|is back at|visits] {t} from the {side} and {v}",
    ),
    "join": (
        f"{{who}} {_COMES} in from the {{side}} and [joins|meets|greets] {{n}} {_AT} {{t}}",
        f"{_AT} {{t}}, {{n}} is [joined|met|greeted] by {{who}} from the {{side}}",
        f"{{n}} {{v}} {_AT} {{t}} as {{who}} {_COMES} in from the {{side}}",
    ),
    "join_leave": (
        f"{{who}} {_COMES} in from the {{side}} [to join|to meet|and greets] {{n}} {_AT} {{t}}, "
        f"who then {_OFF}",
        f"{_AT} {{t}}, {{who}} {_COMES} in from the {{side}} and then {{n}} {_OFF}",
    ),
    "pair": (
        f"{{n}} {{v}} while {{m}} {{w}} {_AT} {{t}}",
        f"{_AT} {{t}}, {{n}} {{v}} [and|while|as] {{m}} {{w}}",
        f"{{n}} {{v}} [beside|next to|near|close to] {{m}} {_AT} {{t}}",
        "{n} and {m} [stay|linger|remain|play|rest] [together|side by side] [at|in] {t}",
    ),
    "pair_leave": (
        f"{{n}} {{v}} [beside|next to|near] {{m}} {_AT} {{t}}, then {{leaver}} {_OFF}",
        f"{_AT} {{t}}, {{n}} {{v}} while {{m}} {{w}}, then {{leaver}} {_OFF}",
    ),
    "pair_leave_both": (
        f"{{n}} and {{m}} [play|rest|chat|linger] {_AT} {{t}}, then both {_LEAVE}",
        f"{_AT} {{t}}, {{n}} {{v}} while {{m}} {{w}}, then both {_LEAVE}",
    ),
    "empty": (
        "[nobody|no one] is [in sight|around|to be seen] [at|in] {t}, only {ambient}",
        "{t} [lies|rests|stays] [empty|still|quiet|calm] with {ambient}",
        "{ambient} [fills|crosses|settles over] {t}, with [nobody|no one] [in sight|around]",
    ),
    "travel_empty": (
        f"{_CAM} {_PAN} {{side}} {{to}} with [nobody|no one] [in sight|around]",
        f"{_CAM} {_PAN} {{side}} {{to}}, [quiet|calm|still|silent] and empty",
    ),
    "travel_empty_behind": (
        f"leaving {{n}}, {_CAM} {_PAN} {{side}} {{to}} with [nobody|no one] [in sight|around]",
        f"{_CAM} {_PARTS} {{n}} and {_PAN} {{side}} {{to}}, [quiet|calm|still] and empty",
    ),
    "travel_meet": (
        f"{_CAM} {_PAN} {{side}} {{to}}, where {{who}} {{v}}",
        f"[panning|gliding|drifting] {{side}} {{to}}, {_CAM} {_FINDS} {{who}}, who {{v}}",
    ),
    "travel_meet_behind": (
        f"{_CAM} {_PARTS} {{n}} and {_PAN} {{side}} {{to}}, where {{who}} {{v}}",
        f"leaving {{n}}, {_CAM} {_PAN} {{side}} {{to}}, where {{who}} {{v}}",
    ),
    "travel_follow": (
        "{n} [walks|strolls|wanders|hurries|steps] {side} {to}, and {v} there",
        f"{_CAM} [follows|trails|tracks] {{n}} {{side}} {{to}}, where {{n}} {{v}}",
        "{n} [leads the way|leads the camera|leads us|heads] {side} {to}, and {v}",
    ),
    "zoom in": (
        "[as|while] [the camera|the view|our view] [slowly|gently|softly|smoothly] "
        "[zooms in|moves closer|comes closer]",
    ),
    "zoom out": (
        "[as|while] [the camera|the view|our view] [slowly|gently|softly|smoothly] "
        "[zooms out|moves back|draws back]",
    ),
    "pan": (
        "[as|while] [the camera|the view|our view] [slowly|gently|softly|smoothly] "
        "[pans|drifts] {pan}",
    ),
    "return_camera": (
        "[as|while] [the camera|the view|our view] [slowly|gently|softly|smoothly] "
        "[returns|settles back]",
    ),
    "weather_change": (
        "[as|while] [slowly|gently|gradually|softly|quietly] {change}",
        "[and|until] [slowly|gently|gradually|softly|quietly] {change}",
    ),
}

# Third person singular, so that each follows a name or a description.
ACTION_PHRASES: dict[str, tuple[str, ...]] = {
    "walk": ("walks along", "strolls along", "wanders about", "walks a few steps", "ambles along"),
    "hop": ("hops up and down", "bounces around", "jumps for joy", "hops in place", "leaps about"),
    "wave": ("waves hello", "waves at us", "raises an arm to wave", "waves gladly",
             "gives a friendly wave"),
    "sit": ("sits down", "takes a seat", "sits quietly", "sits and rests", "settles down to sit"),
    "sleep": ("falls asleep", "takes a nap", "dozes off", "sleeps peacefully", "naps quietly"),
    "spin": ("spins around", "turns in circles", "twirls around", "whirls about", "spins in place"),
    "look": ("looks around", "gazes about", "looks left and right", "peers around",
             "watches the scene"),
    "dance": ("dances", "sways to a tune", "dances with joy", "dances from side to side",
              "sways and dances"),
}  # fmt: skip

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "meadow": ("a flowery meadow", "a grassy meadow", "a sunny little meadow", "a wide meadow"),
    "forest": ("a pine forest", "a deep forest", "a tall pine forest", "a mossy forest"),
    "desert": ("a sandy desert", "a dry desert", "a desert of dunes", "a cactus desert"),
    "beach": ("a sandy beach", "a palm beach", "a seaside beach", "a wide beach by the sea"),
    "snowfield": (
        "a frozen snowfield",
        "a wide snowfield",
        "a mountain snowfield",
        "an icy snowfield",
    ),
    "city": ("a city street", "a busy city street", "a quiet city avenue", "a city corner"),
    "lake": ("a calm lake shore", "a quiet lake", "a mirror lake", "a still lake shore"),
    "canyon": ("a rocky canyon", "a deep canyon", "a steep canyon", "a canyon of stone"),
}

WEATHER_PHRASES: dict[str, tuple[str, ...]] = {
    "morning": ("on a clear morning", "on a bright morning", "in clear morning light"),
    "sunset": ("at golden sunset", "in warm sunset light", "under a glowing sunset"),
    "overcast": ("under an overcast sky", "on an overcast day", "in dull overcast light"),
    "rain": ("in steady rain", "on a day of rain", "as rain falls"),
    "snow": ("in falling snow", "as snow falls", "in gentle snow"),
    "night": ("on a moonlit night", "at night under the moon", "on a calm night"),
}

WEATHER_CHANGES: dict[str, tuple[str, ...]] = {
    "morning": ("clear morning light returns", "the morning sky clears"),
    "sunset": ("the sunset begins to glow", "a golden sunset sets in"),
    "overcast": ("the sky turns overcast", "overcast clouds roll in"),
    "rain": ("rain begins to fall", "steady rain sets in"),
    "snow": ("snow begins to fall", "falling snow sets in"),
    "night": ("night falls", "the night and its moon arrive"),
}

AMBIENT = ("soft silence", "a light breeze", "quiet air", "a gentle hush", "drifting air")
