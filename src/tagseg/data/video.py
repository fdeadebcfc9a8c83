"""Videos frame by frame, read and written by OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # before the import: what is wrong is said here, in a sentence
import cv2

from tagseg.data.walking import composed, find_images
from tagseg.errors import BadInput
from tagseg.files import write_aside

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_FRAMES_A_SECOND = 25.0  # where a video does not say


class AddFrame(Protocol):
    """What takes the next frame of a video that is written, `(H, W, 3)` uint8 RGB, all of one size."""

    def __call__(self, frame: np.ndarray) -> None: ...


def find_videos(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> dict[str, Path]:
    """Returns the videos among files and in folders, name to path; names below a folder are kept.

    Args:
        paths: the files and folders.
        out: the folder for results; what lies in it is no video where it is below one of the folders.

    Raises:
        BadInput: two would get the same name.
    """
    found: dict[str, Path] = {}
    results = Path(out).resolve()
    for path in map(Path, paths):
        if path.is_dir():
            below = find_images(path, suffixes=VIDEO_SUFFIXES).photographs
            members = [(Path(name).with_suffix("").as_posix(), file) for name, file in below.items()]
            if path.resolve() in results.parents:
                members = [(name, file) for name, file in members if results not in file.resolve().parents]
        else:
            members = [(composed(path.stem), path)] if path.suffix.lower() in VIDEO_SUFFIXES else []
        for name, file in members:
            if name in found:
                raise BadInput(
                    f"{file}: its results would have the same name as those of {found[name]}; rename one of them."
                )
            found[name] = file
    return found


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise BadInput(f"{path}: there is no such video.")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise BadInput(f"{path}: this video cannot be read; save it as MP4, or give its frames as photographs.")
        yield video
    finally:
        video.release()


def count_frames(path: Path) -> int:
    """Returns how many frames a video says that it has; 0 where it does not say.

    Raises:
        BadInput: it cannot be read.
    """
    with _opened(path) as video:
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def frames_a_second(path: Path) -> float:
    """Returns how fast a video runs.

    Raises:
        BadInput: it cannot be read.
    """
    with _opened(path) as video:
        found = float(video.get(cv2.CAP_PROP_FPS))
    return found if 0 < found < 1000 else _FRAMES_A_SECOND


def frames(path: Path, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number, from 0 on, and the pixels `(H, W, 3)` uint8 RGB of every so many frames of a video.

    Raises:
        BadInput: it cannot be read, or has no frame.
    """
    number = -1
    with _opened(path) as video:
        while video.grab():
            number += 1
            if number % every:
                continue
            there, frame = video.retrieve()
            if there:
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    if number < 0:
        raise BadInput(f"{path}: there is no frame in this video; save it anew, or give its frames as photographs.")


@contextmanager
def write_video(path: Path, a_second: float) -> Iterator[AddFrame]:
    """Gives what takes the frames of an MP4, which is there whole when the block ends well, or not at all.

    Raises:
        BadInput: it cannot be written.
    """
    writer: cv2.VideoWriter | None = None
    with write_aside(path) as aside:
        # OpenCV tells the format by the name; what is hidden is nobody's video
        ending = aside.with_name(f".{aside.name}.mp4")

        def add(frame: np.ndarray) -> None:
            nonlocal writer
            height, width = (n - n % 2 for n in frame.shape[:2])  # what most players want
            if writer is None:
                writer = cv2.VideoWriter(str(ending), cv2.VideoWriter.fourcc(*"mp4v"), a_second, (width, height))
                if not writer.isOpened():
                    raise BadInput(f"{path}: this video cannot be written here; give photographs, or no --overlay.")
            writer.write(cv2.cvtColor(np.ascontiguousarray(frame[:height, :width]), cv2.COLOR_RGB2BGR))

        try:
            yield add
            if writer is not None:
                writer.release()
            os.replace(ending, aside)
        finally:
            if writer is not None:
                writer.release()
            with suppress(OSError):
                ending.unlink()
