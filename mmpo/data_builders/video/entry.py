"""The builder `video_rewards`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mmpo.data_builders.entry import Entry
from mmpo.data_builders.video.settings import VideoRewardSettings
from mmpo.errors import UserError


def look(settings: VideoRewardSettings) -> Iterator[tuple[Path, str]]:
    """The videos."""
    from mmpo.data.video_lists import read_videos

    items = list(islice(read_videos(settings.videos, settings.root, settings.captions), settings.limit))
    if not items:
        raise UserError(f"{settings.videos}: no video is listed there")
    return ((Path(item.root), item.video) for item in items)


ENTRY = Entry(VideoRewardSettings, "mmpo.data_builders.video.build:VideoPairs", look)
