import av
import numpy as np
import pytest
import soundfile
from media import BLUE, GREEN, RED, WHITE, solid, tone, truncate, write_flv, write_mp4, write_wav

from raygap.config import Prepare
from raygap.data.media import pictures
from raygap.data.media import sound as sound_module
from raygap.data.media.files import BadClip, open_media
from raygap.data.media.pictures import frame_times
from raygap.data.media.sound import decode_audio_file as read_sound


def frames_and_length(path, start, end, count, size, **settings):
    with open_media(path) as container:
        return pictures.decode_frames(container, start, end, Prepare(frames=count, frame_size=size, **settings))


def decode_frames(*arguments, **settings):
    return frames_and_length(*arguments, **settings)[0]


def colours(frames):
    """Mean colour of each frame's middle, away from the blur at edges."""
    middle = slice(frames.shape[1] // 4, 3 * frames.shape[1] // 4)
    return frames[:, middle, middle].mean(axis=(1, 2))


def pitch(sound, rate):
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return spectrum.argmax() * rate / len(sound)


def assert_colours(frames, *expected):
    assert np.abs(colours(frames) - np.array(expected)).max() < 30


@pytest.mark.parametrize("write", [write_mp4, write_flv])
def test_frames_lie_in_the_middle_of_equal_stretches(tmp_path, write):
    path = write(tmp_path / f"clip.{write.__name__[-3:]}", solid(RED, GREEN, BLUE, seconds=1.2), None)
    frames = decode_frames(path, None, None, 3, 16)
    assert frames.shape == (3, 16, 16, 3)
    assert frames.dtype == np.uint8
    assert_colours(frames, RED, GREEN, BLUE)
    assert_colours(decode_frames(path, None, None, 1, 16), GREEN)


@pytest.mark.parametrize("write", [write_mp4, write_flv])
@pytest.mark.parametrize("seek_beyond", [0.3, 100])
def test_start_and_end_are_honoured_by_seeking_and_by_decoding_through(tmp_path, monkeypatch, write, seek_beyond):
    monkeypatch.setattr(pictures, "SEEK_BEYOND", seek_beyond)
    path = write(tmp_path / f"clip.{write.__name__[-3:]}", solid(RED, GREEN, BLUE, WHITE, seconds=4), None)
    assert_colours(decode_frames(path, 2.0, 3.0, 2, 16), BLUE, BLUE)
    assert_colours(decode_frames(path, 2.0, None, 2, 16), BLUE, WHITE)
    assert_colours(decode_frames(path, None, 2.0, 2, 16), RED, GREEN)
    assert_colours(decode_frames(path, None, None, 4, 16), RED, GREEN, BLUE, WHITE)


@pytest.mark.parametrize("key_every", [12, 250])
@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "libx264"),
        ("ts", "libx264"),  # no index: seeking is a guess
        ("mkv", "libx265"),  # open groups: frames behind a key frame are shown before it
        ("avi", "mpeg4"),
        ("webm", "libvpx-vp9"),
        ("mp4", "libsvtav1"),  # its decoder would skip for ever what it skips at first
    ],
)
def test_the_frames_are_those_that_decoding_all_finds(tmp_path, monkeypatch, kind, codec, key_every):
    # Every frame its own grey, with B-frames among them.
    grey = solid(*((30 + 7 * i % 200,) * 3 for i in range(150)), seconds=6, height=64, width=64)
    path = write_mp4(tmp_path / f"clip.{kind}", grey, None, codec=codec, key_every=key_every)
    with av.open(str(path)) as container:
        zero = (container.start_time or 0) / av.time_base
        shown = [(f.time - zero, f.reformat(8, 8, format="rgb24").to_ndarray()) for f in container.decode(video=0)]
    for start, end, count in ((None, None, 1), (None, None, 4), (None, None, 37), (1.9, 5.3, 3), (4.02, 4.1, 1)):
        monkeypatch.setattr(pictures, "SEEK_BEYOND", 0.5 if count == 3 else 5)
        found, seconds = frames_and_length(path, start, end, count, 8)
        assert seconds == pytest.approx((end or 6) - (start or 0), abs=0.05)
        for picture, time in zip(found, frame_times(seconds, Prepare(frames=count)), strict=True):
            nearest = min(shown, key=lambda timed: abs(timed[0] - (start or 0) - time))[1]
            assert np.abs(picture.astype(int) - nearest).max() <= 1


def test_frames_at_a_rate_lie_around_the_middle():
    settings = Prepare(frames=3, frame_rate=1)
    assert frame_times(10, settings) == [4, 5, 6]
    assert frame_times(2.5, settings) == [0.25, 1.25, 2.25]
    # A clip that is too short for the rate is spread over evenly.
    assert frame_times(1.5, settings) == frame_times(1.5, Prepare(frames=3)) == [0.25, 0.75, 1.25]
    # A frame a second of ten, as published code takes them: from the middles of the seconds.
    assert frame_times(10, Prepare(frames=10, frame_rate=1)) == [i + 0.5 for i in range(10)]


def test_frames_at_a_rate(tmp_path):
    path = write_mp4(tmp_path / "clip.mp4", solid(RED, GREEN, BLUE, WHITE, seconds=4), None)
    assert_colours(decode_frames(path, None, None, 2, 16, frame_rate=0.3), RED, WHITE)
    assert_colours(decode_frames(path, None, None, 2, 16, frame_rate=2), GREEN, BLUE)


def test_the_nearest_frame_is_chosen(tmp_path):
    # A new shade of grey with every frame; the middle of the stretch 0.38..0.46 s is frame 10.5, of 0.39..0.43 10.25.
    shades = [(20 + 8 * i,) * 3 for i in range(25)]
    path = write_mp4(tmp_path / "clip.mp4", solid(*shades), None)
    shown = decode_frames(path, 0.39, 0.43, 1, 8).mean()
    assert abs(shown - shades[10][0]) < 4


def test_a_wide_picture_is_squeezed_whole_into_a_square(tmp_path):
    frames = solid(RED, width=128)
    frames[:, :, 64:] = BLUE
    square = decode_frames(write_mp4(tmp_path / "clip.mp4", frames, None), None, None, 1, 32)[0]
    assert np.abs(square[:, 4:12].mean(axis=(0, 1)) - RED).max() < 30
    assert np.abs(square[:, 20:28].mean(axis=(0, 1)) - BLUE).max() < 30


def test_a_long_still_frame_serves_all_its_stretches(tmp_path):
    path = write_mp4(tmp_path / "clip.mp4", solid(RED)[:2], tone(440))
    assert_colours(decode_frames(path, None, None, 4, 8), RED, RED, RED, RED)


@pytest.mark.parametrize("kind", ["mp4", "flv", "wav", "stereo.wav", "stereo.mp4"])
def test_sound_keeps_its_pitch_and_loudness_at_another_rate(tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    sound = tone(440, rate=44_100)
    if kind.startswith("stereo"):
        sound = np.stack((sound, 0 * sound), axis=1)  # mixes to half the loudness
    write = {"mp4": write_mp4, "flv": write_flv, "wav": write_wav}[kind[-3:]]
    write(path, *(() if write is write_wav else (None,)), sound, rate=44_100)
    heard = read_sound(path, None, None, 16_000)
    assert heard.dtype == np.float32
    assert heard.ndim == 1
    assert abs(len(heard) - 16_000) < 2_200  # codecs pad to whole blocks
    assert abs(pitch(heard, 16_000) - 440) < 2
    loudness = 0.25 if kind.startswith("stereo") else 0.5
    assert abs(np.abs(heard[4_000:12_000]).max() - loudness) < 0.05


@pytest.mark.parametrize("kind", ["mp4", "ts", "wav"])
@pytest.mark.parametrize("seek_beyond", [0.5, 100])
def test_sound_between_start_and_end(tmp_path, monkeypatch, kind, seek_beyond):
    monkeypatch.setattr(sound_module, "SEEK_BEYOND", seek_beyond)
    sound = tone(400, 800, 1600, 3200, seconds=8)
    path = tmp_path / f"clip.{kind}"
    write_wav(path, sound) if kind == "wav" else write_mp4(path, solid(RED, seconds=8), sound)
    for start, end, frequency in ((None, 2.0, 400), (2.0, 4.0, 800), (4.0, 6.0, 1600), (6.0, None, 3200)):
        heard = read_sound(path, start, end, 16_000)
        assert abs(len(heard) - 32_000) < (1_200 if end is None else 2)
        assert abs(pitch(heard, 16_000) - frequency) < 2
        # All of it is this tone, to the edges: nothing of the neighbours has slipped in.
        for edge in (heard[400:2_400], heard[29_000:31_000]):
            assert abs(pitch(edge, 16_000) - frequency) < 16


@pytest.mark.parametrize("kind", ["mp4", "ts"])
@pytest.mark.parametrize("seek_beyond", [0.5, 100])
def test_sound_that_begins_late_is_silent_until_then(tmp_path, monkeypatch, kind, seek_beyond):
    monkeypatch.setattr(sound_module, "SEEK_BEYOND", seek_beyond)
    path = write_mp4(tmp_path / f"clip.{kind}", solid(RED, seconds=6), tone(440, seconds=3), sound_starts=3.0)
    for start, end, silent, heard in ((None, None, 3.0, 3.0), (1.0, 4.0, 2.0, 1.0), (2.5, 6.0, 0.5, 3.0)):
        sound = read_sound(path, start, end, 16_000)
        assert abs(len(sound) - 16_000 * (silent + heard)) < 2_200
        begins = round(silent * 16_000)
        assert np.abs(sound[: begins - 1_200]).max() < 0.01
        assert abs(pitch(sound[begins + 1_200 : begins + 12_000], 16_000) - 440) < 4


def test_an_end_beyond_the_sound_is_no_fault(tmp_path):
    assert len(read_sound(write_wav(tmp_path / "clip.wav", tone(440)), 0.5, 9.0, 16_000)) == 8_000


def write_bad(folder, kind):
    """A file with one fault."""
    path = folder / "clip.mp4"
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "not media":
        path.write_bytes(b"no media at all " * 1000)
    elif kind == "index lost":
        truncate(write_mp4(path, solid(RED), tone(440)), 0.8)
    elif kind == "no video":
        write_mp4(path, None, tone(440))
    elif kind == "no audio":
        write_mp4(path, solid(RED), None)
    elif kind == "no frames":
        write_mp4(path, solid(RED)[:0], tone(440))
    elif kind == "silent":
        write_mp4(path, solid(RED), 0 * tone(440))
    elif kind == "one beep":
        write_mp4(path, solid(RED), tone(440)[:100])
    elif kind == "tail lost":
        noise = np.random.default_rng(0).integers(0, 255, (250, 32, 32, 3), dtype=np.uint8)
        truncate(write_mp4(path, noise, tone(440, seconds=10), index_first=True), 0.4)
    return path


@pytest.mark.parametrize(
    ("kind", "picture", "sound"),
    [
        ("zero bytes", "unreadable", "unreadable"),
        ("not media", "unreadable", "unreadable"),
        ("index lost", "unreadable", "unreadable"),
        ("no video", "no video stream", None),
        ("no frames", "no video stream|no frames|too short", None),
        ("tail lost", "too short|unreadable", None),
        ("no audio", None, "no audio stream"),
        ("silent", None, "silent"),
    ],
)
def test_bad_files(tmp_path, kind, picture, sound):
    path = write_bad(tmp_path, kind)
    if picture:
        with pytest.raises(BadClip, match=picture):
            decode_frames(path, None, None, 8, 16)
    if sound:
        with pytest.raises(BadClip, match=sound):
            read_sound(path, None, None, 16_000)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no media at all " * 1000])
def test_bad_sound_files(tmp_path, content):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    with pytest.raises(BadClip, match="unreadable"):
        read_sound(path, None, None, 16_000)


def test_a_clip_behind_the_end_of_its_file(tmp_path):
    mp4 = write_mp4(tmp_path / "clip.mp4", solid(RED), tone(440))
    wav = write_wav(tmp_path / "clip.wav", tone(440))
    for start, end in ((5.0, 6.0), (5.0, None)):
        with pytest.raises(BadClip, match="too short"):
            decode_frames(mp4, start, end, 1, 16)
        for path in (mp4, wav):
            with pytest.raises(BadClip, match="too short"):
                read_sound(path, start, end, 16_000)


@pytest.mark.parametrize("kind", ["wav", "mp4"])
def test_a_spoken_digit_is_long_enough_and_a_click_is_not(tmp_path, kind):
    def write(seconds):
        path, sound = tmp_path / f"{seconds}.{kind}", tone(440, seconds=seconds)
        return write_wav(path, sound) if kind == "wav" else write_mp4(path, solid(RED), sound)

    assert len(read_sound(write(0.14), None, None, 16_000)) >= 0.14 * 16_000
    with pytest.raises(BadClip, match=r"too short: 0\.10 s of sound"):
        read_sound(write(0.1), None, None, 16_000)


def test_sound_that_is_not_finite(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(BadClip, match="not finite"):
        read_sound(tmp_path / "nan.wav", None, None, 16_000)
