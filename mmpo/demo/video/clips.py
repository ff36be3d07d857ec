"""Clips: things of the demo world that stay, enter, leave or pass, drawn from a seed, and written as H.264.

Every thing keeps to a lane of its own, so none hides another. Time is counted in beats, 0 to `BEATS`; a frame at every
beat shows whatever happens: coming in and going out take two beats, passing takes three.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np

from mmpo.demo.drawing import SIZE, sprite
from mmpo.demo.scene import Item, Scene
from mmpo.demo.things import COLORED, COLORS, PARTNER, PLACES, THINGS

BEATS = 3
FRAMES_PER_BEAT = 8
FPS = 12
KEY_FRAMES = BEATS + 1
"""Frames that show everything: what the demo's model is given of a clip."""

LANES = 3
_LANE = SIZE // LANES

Course = Literal["stays", "enters", "leaves", "passes"]
COURSES: tuple[Course, ...] = ("stays", "enters", "leaves", "passes")
ClipSide = Literal["left", "right"]
OTHER: dict[str, ClipSide] = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Track:
    """One thing and what it does. `side` is where it comes from or, if it leaves, goes to; `start` the beat at which it
    begins to move; `x`, `y` its upper left corner at rest; `size` its longer side in pixels."""

    thing: str
    color: str | None
    size: int
    mirrored: bool
    course: Course
    side: ClipSide
    start: int
    x: int
    y: int

    def item(self, beat: float) -> Item | None:
        """The thing in its place at a beat; None while it is out of the picture."""
        width, height = sprite(self.thing, self.color, self.size, self.mirrored).size
        out = {"left": -width, "right": SIZE}
        begin, end, beats = float(self.x), float(self.x), 2
        if self.course == "enters":
            begin = out[self.side]
        elif self.course == "leaves":
            end = out[self.side]
        elif self.course == "passes":
            begin, end, beats = out[self.side], out[OTHER[self.side]], 3
        done = min(1.0, max(0.0, (beat - self.start) / beats))
        x = round(begin + (end - begin) * done)
        return Item(self.thing, self.color, (x, self.y, width, height), self.mirrored) if -width < x < SIZE else None

    @property
    def events(self) -> tuple[tuple[str, str], ...]:
        """(who, does): what passes also enters and leaves."""
        does = ("passes", "enters", "leaves") if self.course == "passes" else (self.course,)
        return tuple((self.thing, verb) for verb in does)


@dataclass(frozen=True)
class ScriptedClip:
    """A place with tracks in the order of what happens, what stays last; `seed` also fixes the background."""

    place: str
    tracks: tuple[Track, ...]
    seed: tuple[int, ...]

    @property
    def things(self) -> tuple[str, ...]:
        return tuple(track.thing for track in self.tracks)

    @property
    def events(self) -> tuple[tuple[str, str], ...]:
        return tuple(event for track in self.tracks for event in track.events)

    @property
    def moving(self) -> tuple[Track, ...]:
        return tuple(track for track in self.tracks if track.course != "stays")

    def scene(self, beat: float) -> Scene:
        """The scene that the clip shows at a beat."""
        items = [item for track in self.tracks if (item := track.item(beat)) is not None]
        return Scene(self.place, tuple(items), self.seed)

    def scenes(self) -> list[Scene]:
        """The scenes of the `KEY_FRAMES`."""
        return [self.scene(beat) for beat in range(KEY_FRAMES)]

    def frames(self) -> list[np.ndarray]:
        """All frames [SIZE, SIZE, 3]; those of the beats are every `FRAMES_PER_BEAT`-th, the first and last among
        them."""
        count = BEATS * FRAMES_PER_BEAT + 1
        return [np.asarray(self.scene(number / FRAMES_PER_BEAT).draw()) for number in range(count)]


def sample_clip(seed: tuple[int, ...]) -> ScriptedClip:
    """The clip of a seed: two or three things, one of which at least moves."""
    rng = np.random.default_rng((*seed, 0))
    place = PLACES[int(rng.integers(len(PLACES)))]
    things = _choose_things(rng, place.pairs)
    lanes = rng.permutation(LANES)
    courses: dict[str, Course] = {}
    for thing in things:
        # Companions tend to do the same.
        like = courses.get(PARTNER[thing])
        courses[thing] = like if like and rng.random() < 0.5 else COURSES[int(rng.choice(4, p=(0.2, 0.4, 0.2, 0.2)))]
    if set(courses.values()) == {"stays"}:
        courses[things[0]] = "enters"
    tracks = [_track(rng, thing, courses[thing], int(lane)) for thing, lane in zip(things, lanes, strict=False)]
    tracks.sort(key=lambda track: (track.course == "stays", track.start, track.y))
    return ScriptedClip(place.name, tuple(tracks), seed)


def _choose_things(rng: np.random.Generator, pairs: tuple[tuple[str, str], ...]) -> list[str]:
    """Two or three things, no two alike; the halves of a pair come together more often than not."""
    kind = rng.random()
    first, second = (list(rng.permutation(pairs[index])) for index in rng.permutation(len(pairs))[:2])
    if kind < 0.25:
        chosen = first
    elif kind < 0.55:
        chosen = [*first, second[0]]
    elif kind < 0.8:
        chosen = [first[0], second[0]]
    else:
        chosen = [first[0], str(rng.choice([thing for thing in THINGS if thing not in first]))]
    return [str(thing) for thing in rng.permutation(chosen)]


def _track(rng: np.random.Generator, thing: str, course: Course, lane: int) -> Track:
    color = str(rng.choice(list(COLORS))) if thing in COLORED else None
    size = int(rng.integers(16, _LANE // 2)) * 2
    mirrored = bool(rng.random() < 0.5)
    width, height = sprite(thing, color, size, mirrored).size
    side: ClipSide = "left" if rng.random() < 0.5 else "right"
    start = int(rng.integers(2)) if course in ("enters", "leaves") else 0
    x = round((SIZE - width) / 2) + int(rng.integers(-20, 21))
    y = lane * _LANE + int(rng.integers(max(1, _LANE - height + 1)))
    return Track(thing, color, size, mirrored, course, side, start, x, y)


def encode_clip(clip: ScriptedClip) -> bytes:
    """The clip as an MP4 with H.264. The same clip gives the same bytes with the same libraries.

    Without B-frames: the MP4 then needs no edit list, which some readers overlook.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": "16", "preset": "veryfast", "g": "8", "x264-params": "bframes=0", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for frame in clip.frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
