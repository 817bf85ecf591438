import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from media import BLUE, FPS, GREEN, RED, WHITE, solid, tone, write_mp4

from raygap.config import Prepare
from raygap.data.decoding import Media, decode_parts
from raygap.data.media.files import BadClip, clock_zero, open_media
from raygap.data.media.pictures import decode_frames, frame_times
from raygap.data.media.sound import decode_audio


def frames_of(path, start=None, end=None, count=1, size=16):
    with open_media(path) as container:
        return decode_frames(container, start, end, Prepare(frames=count, frame_size=size))


def sound_of(path, start=None, end=None):
    with open_media(path) as container:
        return decode_audio(container, start, end, 16_000)


def pitch(sound):
    return np.abs(np.fft.rfft(sound * np.hanning(len(sound)))).argmax() * 16_000 / len(sound)


def moving(seconds, size=64):
    """Coarse noise that drifts a pixel a frame."""
    noise = np.random.default_rng(0).integers(0, 255, (size // 4, size, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return np.stack([noise[:, i : i + size] for i in range(round(seconds * FPS))])


def encoded(stream, frames, first=0):
    for i, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = first + i, Fraction(1, FPS)
        yield from stream.encode(frame)
    yield from stream.encode()


def write(path, frames, *, codec="libx264", first=0, shift=0, spoil=(), sound=None, mux=None, **options):
    """Frames that are shown from the `first` tick on; `shift` is added to the packets' times, so that an edit list cuts
    what comes before zero; bytes of the packets numbered in `spoil` are altered."""
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate, stream.codec_context.gop_size = 500_000, 25
        audio = container.add_stream("libmp3lame", rate=44_100, layout="mono") if sound is not None else None
        packets = list(encoded(stream, frames, first))
        for number in spoil:
            content = bytearray(packets[number])
            # Of its entropy-coded part HEVC's decoder does not tell: the header, behind its kind.
            part = slice(6, 12) if codec == "libx265" else slice(len(content) // 3, 2 * len(content) // 3)
            content[part] = np.random.default_rng(number).bytes(len(content[part]))
            packets[number].update(bytes(content))
        for packet in packets:
            ticks = round(shift / packet.time_base / FPS)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        if audio:
            resampler = av.AudioResampler(format="s16p", layout="mono", rate=44_100)
            wave = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            wave.sample_rate, wave.pts, wave.time_base = 44_100, first * 44_100 // FPS, Fraction(1, 44_100)
            packets += [packet for part in resampler.resample(wave) for packet in audio.encode(part)] + audio.encode()
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
        container.mux(packets)
    return path


def assert_nearest(path, start=None, end=None, count=4):
    """The frames are those that plain decoding of the whole file shows at their times, counted from its first."""
    with av.open(str(path)) as container:
        shown = [
            (f.time, f.reformat(16, 16, "rgb24", interpolation="AREA").to_ndarray()) for f in container.decode(video=0)
        ]
    first, last = shown[0][0], shown[-1][0] + 1 / FPS
    found, seconds = frames_of(path, start, end, count)
    assert seconds == pytest.approx((last - first if end is None else end) - (start or 0), abs=0.01)
    for picture, time in zip(found, frame_times(seconds, Prepare(frames=count)), strict=True):
        beside = [abs(at - first - (start or 0) - time) for at, _ in shown]
        near = [picture for away, (_, picture) in zip(beside, shown, strict=True) if away < min(beside) + 0.002]
        assert min(np.abs(one.astype(int) - picture).max() for one in near) <= 1


CORNERS = np.array([[RED, GREEN], [BLUE, WHITE]])


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "upright"),
    [
        (1, 0, 0, 1, CORNERS),
        (-1, 0, 0, 1, CORNERS[:, ::-1]),
        (1, 0, 0, -1, CORNERS[::-1]),
        (-1, 0, 0, -1, CORNERS[::-1, ::-1]),
        (0, 1, -1, 0, np.rot90(CORNERS, -1)),  # a quarter turn clockwise, as of a phone held upright
        (0, -1, 1, 0, np.rot90(CORNERS)),
        (0, 1, 1, 0, CORNERS.swapaxes(0, 1)),
        (0, -1, -1, 0, np.rot90(CORNERS, 2).swapaxes(0, 1)),
    ],
)
def test_pictures_are_turned_as_the_display_matrix_says(tmp_path, a, b, c, d, upright):
    frames = solid(RED, height=32, width=64)
    frames[:] = CORNERS.repeat(16, 0).repeat(32, 1)
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        one = 1 << 16
        stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        container.mux(list(encoded(stream, frames)))
    # What `prepare` stores, and what `predict` sees.
    for found in (frames_of(path)[0], decode_parts(Media("clip", path, None), Prepare(frames=1, frame_size=16)).frames):
        assert np.abs(found[0, 4::8, 4::8].astype(int) - upright).max() < 40


@pytest.mark.parametrize(
    ("name", "codec", "first", "options"),
    [
        ("clip.mkv", "libx264", 25, {}),
        ("clip.webm", "libvpx", 12, {}),
        ("clip.ts", "libx264", 75, {}),
        ("clip.flv", "libx264", 25, {}),
        ("clip.flv", "flv", 25, {}),
        ("clip.avi", "mpeg4", 0, {"bf": "2"}),
        ("clip.mpg", "mpeg2video", 0, {"bf": "2"}),
        ("clip.mp4", "libx264", 25, {}),
        ("clip.mp4", "libx264", 25, {"mux": {"movflags": "frag_keyframe+empty_moov"}}),
        ("clip.mp4", "libx264", 0, {"mux": {"use_editlist": "0"}}),
        ("clip.mp4", "libx264", 0, {"shift": -10}),
        ("clip.mp4", "libx264", 0, {"shift": -40}),
    ],
)
def test_times_count_from_the_first_frame_in_picture_and_sound(tmp_path, name, codec, first, options):
    sound = None if "shift" in options or name.endswith("webm") else tone(400, 1600, rate=44_100, seconds=4)
    path = write(tmp_path / name, moving(4), codec=codec, first=first, sound=sound, **options)
    for start, end, count in ((None, None, 4), (None, None, 25), (1.0, None, 3), (0.5, 2.1, 3)):
        assert_nearest(path, start, end, count)
    if sound is not None:
        assert abs(len(sound_of(path)) / 16_000 - 4) < 0.12
        for start, end, frequency in ((0.5, 1.85, 400), (2.15, 3.8, 1600)):
            heard = sound_of(path, start, end)
            assert abs(len(heard) / 16_000 - (end - start)) < 0.01
            assert abs(pitch(heard[:1600]) - frequency) < 40
            assert abs(pitch(heard[-1600:]) - frequency) < 40


def test_sound_from_before_the_first_frame_is_left_out(tmp_path):
    path = write_mp4(
        tmp_path / "clip.mkv", solid(RED), tone(400, 1600, seconds=3), times=[1.5 + i / FPS for i in range(25)]
    )
    with open_media(path) as container:
        assert clock_zero(container) == pytest.approx(1.5, abs=0.01)
    assert abs(pitch(sound_of(path, 0.1, 1.0)) - 1600) < 4


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}),
        ("clip.ts", "libx265", {"x265-params": "open-gop=1:log-level=none"}),
        ("clip.ts", "libx264", {"x264-params": "intra-refresh=1"}),
        ("clip.mkv", "libx265", {"x265-params": "temporal-layers=3:log-level=none"}),
    ],
)
def test_groups_that_refer_to_others_are_no_damage(tmp_path, name, codec, options):
    path = write(tmp_path / name, moving(3), codec=codec, **options)
    assert_nearest(path, None, None, 2)
    assert_nearest(path, 1.3, 2.1, 2)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_recording_that_was_cut_out_of_another_is_whole(tmp_path, codec):
    path = write(tmp_path / "clip.ts", moving(4), codec=codec, bf="2")
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 3 // 188 * 188 : -len(content) // 5])  # neither end where a group ends
    assert_nearest(path, None, None, 2)
    frames_of(path, count=40)  # as many as there are: the last is spoiled, and the one before stands in


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mpg", "mpeg1video"),
        ("clip.avi", "mpeg4"),
        ("clip.mp4", "libx264"),
        ("clip.mkv", "libx265"),
        ("clip.flv", "flv"),
        ("clip.avi", "mjpeg"),
    ],
)
def test_damaged_pictures_are_refused_with_their_share(tmp_path, name, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write(tmp_path / name, moving(3), codec=codec, spoil=range(30, 44), **options)
    with pytest.raises(BadClip, match=r"damaged: the decoder reports errors in \d+ of \d+ frames \(\d+%\)"):
        frames_of(path, count=5)
    # Before the damage, and in the group behind it, there is none.
    whole = write(tmp_path / f"whole-{name}", moving(3), codec=codec, **options)
    for start, end in ((0.1, 0.9), (2.2, 2.8)):
        found, expected = (frames_of(one, start, end, 2)[0].astype(int) for one in (path, whole))
        assert np.abs(found - expected).max() <= 10  # x265 is not the same twice


def test_a_frame_close_by_stands_in_for_a_damaged_one(tmp_path):
    path = write(tmp_path / "clip.mp4", moving(1), bf="0", spoil=[20])
    whole, _ = frames_of(write(tmp_path / "whole.mp4", moving(1), bf="0"), 0.74, 0.78)
    assert np.array_equal(frames_of(path, 0.8, 0.84)[0], whole)  # frame 19 for 20
    with pytest.raises(BadClip, match="damaged"):
        frames_of(path, 0.96, 1.0)  # frame 24 refers to it, and 19 is too far


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "clip.mp3"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg", rate=FPS)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        wave = av.AudioFrame.from_ndarray(tone(440, rate=44_100)[None], format="fltp", layout="mono")
        wave.sample_rate = 44_100
        container.mux(list(itertools.islice(encoded(cover, solid(RED)), 1)))
        parts = av.AudioResampler(format="s16p", layout="mono", rate=44_100).resample(wave)
        container.mux([packet for part in parts for packet in audio.encode(part)] + audio.encode())
    with pytest.raises(BadClip, match="no video stream, only a cover picture"):
        frames_of(path)
    assert abs(len(sound_of(path)) / 16_000 - 1) < 0.1


def test_an_empty_file_is_called_so(tmp_path):
    path = tmp_path / "clip.mp4"
    path.touch()
    with pytest.raises(BadClip, match="unreadable: the file is empty"):
        frames_of(path)


@pytest.mark.parametrize(("name", "codec"), [("clip.h264", "libx264"), ("clip.hevc", "libx265")])
def test_bare_pictures_have_no_times(tmp_path, name, codec):
    path = write(tmp_path / name, moving(1), codec=codec)
    with pytest.raises(BadClip, match="no time stamps"):
        frames_of(path)
