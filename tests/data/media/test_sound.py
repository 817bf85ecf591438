import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from media import RED, solid, tone, write_mp4, write_wav

from raygap.data.media.files import BadClip, open_media
from raygap.data.media.sound import decode_audio, hear, hear_file
from raygap.data.media.sound import decode_audio_file as read_sound

RATE = 16_000


def pitch(sound, rate=RATE):
    return np.abs(np.fft.rfft(sound * np.hanning(len(sound)))).argmax() * rate / len(sound)


def assert_heard(sound, *parts, rate=RATE):
    """Frequencies, or None for silence, and the seconds of each, in turn, all but the 40 ms beside their borders."""
    assert len(sound) / rate == pytest.approx(sum(seconds for _, seconds in parts), abs=0.03)
    borders = itertools.accumulate((seconds for _, seconds in parts), initial=0.0)
    for (frequency, _), (begins, ends) in zip(parts, itertools.pairwise(borders), strict=True):
        part = sound[round((begins + 0.04) * rate) : round((ends - 0.04) * rate)]
        if frequency is None:
            assert np.abs(part).max() < 0.01
        else:
            assert pitch(part, rate) == pytest.approx(frequency, abs=1.5 / (ends - begins - 0.08))
            assert np.sqrt(np.square(part).mean()) == pytest.approx(0.5 / np.sqrt(2), abs=0.03)


def write_sound(path, sound, *, codec="aac", rate=RATE, restamp=None, picture=None, form=None):
    """The sound with a picture, if given; `restamp` maps the seconds at which a packet is to be heard to others, or to
    None to leave it out. Several sounds: a track each."""
    sounds = sound if isinstance(sound, list) else [sound]
    with av.open(str(path), "w", format=form) as container:
        tracks = []
        for one in sounds:
            channels = one[:, None] if one.ndim == 1 else one
            layout = "mono" if channels.shape[1] == 1 else "stereo"
            tracks.append((container.add_stream(codec, rate=rate, layout=layout), np.ascontiguousarray(channels.T)))
        if picture is not None:
            video = container.add_stream("libx264", rate=25)
            video.height, video.width, video.pix_fmt = *picture.shape[1:3], "yuv420p"
            for image in picture:
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode())
        for track, samples in tracks:
            to_format = av.AudioResampler(format=track.format, layout=track.layout, rate=rate)
            frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout=track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            frames = to_format.resample(frame) + to_format.resample(None)
            for packet in [packet for part in (*frames, None) for packet in track.encode(part)]:
                time = float(packet.pts * packet.time_base)
                time = restamp(time) if restamp else time
                if time is not None:
                    packet.pts = packet.dts = round(time / packet.time_base)
                    container.mux(packet)
    return path


def encoded(sound, rate=RATE, form="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "flv"])
def test_a_hole_in_the_time_stamps_is_silence(tmp_path, kind):
    sound = tone(440, 880, 1760, seconds=3)
    path = write_sound(tmp_path / f"hole.{kind}", sound, restamp=lambda time: None if 1 <= time < 2 else time)
    primed = 0.0 if kind in ("mp4", "mkv") else 1024 / RATE  # by the coder, of which these files do not tell
    for start, end, parts in (
        (0.0, 3.0, ((440, 1), (None, 1), (1760, 1))),
        (0.5, 2.5, ((440, 0.5), (None, 1), (1760, 0.5))),
        (1.5, 3.0, ((None, 0.5), (1760, 1))),
        (0.5, 1.5, ((440, 0.5), (None, 0.5))),  # it ends in the hole
    ):
        assert_heard(read_sound(path, start + primed, end + primed, RATE), *parts)


def test_a_lost_block_is_a_hole(tmp_path):
    # Of 23 ms at this rate.
    path = write_sound(
        tmp_path / "hole.mkv", tone(440, rate=44_100), rate=44_100, restamp=lambda t: None if 0.49 < t < 0.51 else t
    )
    assert len(read_sound(path, None, None, 44_100)) == 44 * 1024


def test_an_overlap_is_cut(tmp_path):
    # What is to be heard from 0.7 s to 1 s is over by 0.75 s, where all the rest goes on.
    def earlier(time):
        return time if time < 0.7 else 0.65 + (time - 0.7) / 10 if time < 1 else time - 0.25

    path = write_sound(tmp_path / "overlap.mkv", tone(440, 1760, seconds=2), restamp=earlier)
    assert_heard(read_sound(path, None, 1.75, RATE), (440, 0.75), (1760, 1))


def test_time_stamps_that_are_a_little_off_change_nothing(tmp_path):
    sound, wobble = tone(440, seconds=2), itertools.cycle((0, 0.006, -0.005, 0.01))
    exact = write_sound(tmp_path / "exact.mkv", sound)
    near = write_sound(tmp_path / "near.mkv", sound, restamp=lambda time: time + (next(wobble) if time > 0 else 0))
    assert np.array_equal(read_sound(near, None, None, RATE), read_sound(exact, None, None, RATE))


def test_time_stamps_that_start_anew_are_no_overlap(tmp_path):
    parts = [write_sound(tmp_path / f"{hertz}.ts", tone(hertz)) for hertz in (440, 1760)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    heard = read_sound(both, None, None, RATE)
    # Each with the coder's priming and filling.
    assert len(heard) == 2 * 17 * 1024
    assert (pitch(heard[1100:16_000]), pitch(heard[18_600:33_000])) == (pytest.approx(440, 2), pytest.approx(1760, 2))


def changing(path, before, after):
    """One stream in which rate and channels change: the pictures of (rate, channels) each."""
    contents = []
    for number, (rate, channels) in enumerate((before, after)):
        sound = tone(440 * 4**number, rate=rate)
        sound = np.stack([sound] * channels, axis=1) if channels > 1 else sound
        if path.suffix in (".aac", ".ts"):
            contents.append(write_sound(path.with_name(f"{number}{path.suffix}"), sound, rate=rate).read_bytes())
        else:
            form, subtype = {".ogg": ("OGG", "VORBIS"), ".flac": ("FLAC", None), ".wav": ("WAV", None)}[path.suffix]
            contents.append(encoded(sound, rate, form, subtype))
    path.write_bytes(b"".join(contents))
    return path


@pytest.mark.parametrize("kind", ["aac", "ts", "ogg", "flac", "wav"])
@pytest.mark.parametrize(("before", "after"), [((44_100, 1), (22_050, 1)), ((16_000, 1), (16_000, 2))])
def test_rate_and_channels_may_change_within_a_stream(tmp_path, kind, before, after):
    path = changing(tmp_path / f"changing.{kind}", before, after)
    heard = read_sound(path, None, None, RATE)
    # AAC has a block of priming and up to one of filling in each part.
    spare = sum(2 * 1024 / rate for rate, _ in (before, after)) if kind in ("aac", "ts") else 0.001
    assert 2 <= len(heard) / RATE <= 2 + spare
    for begins, frequency in ((0.2, 440), (1.3, 1760)):
        part = heard[round(begins * RATE) : round((begins + 0.6) * RATE)]
        assert pitch(part) == pytest.approx(frequency, abs=2)
        assert np.abs(part).max() == pytest.approx(0.5, abs=0.05)
    late = read_sound(path, 1.3, 1.9, RATE)
    assert len(late) == round(0.6 * RATE)
    assert pitch(late) == pytest.approx(1760, abs=2)


def test_the_track_with_sound_is_taken_and_named(tmp_path):
    silent, loud = 0 * tone(440), tone(440)
    for sounds, note in (
        ([silent, loud], "sound of track 2, as track 1 is silent"),
        ([loud[:800], loud], "sound of track 2, as track 1 is too short: 0.05 s of sound"),
        ([loud, tone(880)], ""),
    ):
        path = write_sound(tmp_path / "tracks.mkv", sounds, picture=solid(RED))
        with open_media(path) as container:
            sound = hear(container, None, None, RATE)
        assert sound.note == note
        assert pitch(sound.samples) == pytest.approx(440, abs=2)
    with pytest.raises(BadClip, match=r"^silent$"):
        read_sound(write_sound(tmp_path / "tracks.mkv", [silent, silent]), None, None, RATE)


def test_a_track_that_ffmpeg_holds_for_better_goes_first(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        tracks[0].disposition, tracks[1].disposition = Disposition.comment, Disposition.default
        for track, hertz in zip(tracks, (440, 1760), strict=True):
            frame = av.AudioFrame.from_ndarray(tone(hertz)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(track.encode(frame))
            container.mux(track.encode())
    assert pitch(read_sound(path, None, None, RATE)) == pytest.approx(1760, abs=2)


@pytest.mark.parametrize(("kind", "codec"), [("mp3", "libmp3lame"), ("m4a", "aac")])
def test_a_cover_picture_is_nothing_to_the_sound(tmp_path, kind, codec):
    path = tmp_path / f"cover.{kind}"
    with av.open(str(path), "w", format="mp4" if kind == "m4a" else kind) as container:
        audio = container.add_stream(codec, rate=RATE, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(solid(RED)[0], format="rgb24").reformat(format="yuvj420p")
        container.mux([packet for frame in (picture, None) for packet in cover.encode(frame)])
        frame = av.AudioFrame.from_ndarray(tone(440, 1760, seconds=8)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    assert_heard(read_sound(path, None, None, RATE), (440, 4), (1760, 4))
    assert_heard(read_sound(path, 6.5, 7.5, RATE), (1760, 1))


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("m4a", "aac", 44_100),
        ("mkv", "aac", 16_000),
        ("ts", "aac", 16_000),
        ("aac", "aac", 44_100),
        ("flv", "aac", 44_100),
        ("mp3", "libmp3lame", 16_000),
        ("avi", "libmp3lame", 44_100),
        ("opus", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("wav", "adpcm_ms", 16_000),
        ("flac", "flac", 16_000),
    ],
)
def test_the_shortest_sound_is_measured_without_what_coders_add(tmp_path, kind, codec, rate):
    write_sound(tmp_path / f"digit.{kind}", tone(440, seconds=0.14, rate=rate), codec=codec, rate=rate)
    assert len(read_sound(tmp_path / f"digit.{kind}", None, None, rate)) >= round(0.14 * rate)
    write_sound(tmp_path / f"click.{kind}", tone(440, seconds=0.1, rate=rate), codec=codec, rate=rate)
    with pytest.raises(BadClip, match=r"too short: 0\.10 s of sound"):
        read_sound(tmp_path / f"click.{kind}", None, None, rate)


@pytest.mark.parametrize(("kind", "codec"), [("m4a", "aac"), ("mp4", "libopus"), ("mp3", "libmp3lame")])
def test_the_end_is_that_of_the_content(tmp_path, kind, codec):
    path = write_sound(tmp_path / f"clip.{kind}", tone(440, rate=48_000), codec=codec, rate=48_000)
    sound = hear_file(path, None, None, 48_000)
    assert len(sound.samples) == 48_000
    assert sound.ends == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["wav", "mp4"])
def test_an_inverted_channel_does_not_cancel_the_other_out(tmp_path, kind):
    sound = tone(440, peak=0.5)
    path = tmp_path / f"clip.{kind}"
    stereo = np.stack((0.8 * sound, -sound), axis=1)  # also where something small would remain
    write_wav(path, stereo) if kind == "wav" else write_mp4(path, solid(RED), stereo)
    heard = hear_file(path, None, None, RATE)
    assert heard.note == ""
    assert np.abs(heard.samples).max() == pytest.approx(0.05, abs=0.02)
    stereo = np.stack((0.95 * sound, -sound), axis=1)
    write_wav(path, stereo) if kind == "wav" else write_mp4(path, solid(RED), stereo)
    heard = hear_file(path, None, None, RATE)
    assert "inverse" in heard.note
    assert_heard(heard.samples, (440, 1))


def test_channels_that_differ_are_averaged(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, (RATE, 2)).astype(np.float32)
    for stereo in (noise, noise * [1, 0], np.stack((noise[:, 0], 0.1 * noise[:, 0]), axis=1)):
        soundfile.write(tmp_path / "clip.wav", stereo, RATE, subtype="FLOAT")
        heard = hear_file(tmp_path / "clip.wav", None, None, RATE)
        assert (heard.note, np.abs(heard.samples - stereo.mean(axis=1)).max() < 1e-6) == ("", True)


@pytest.mark.parametrize(
    ("codec", "form"),
    [("ac3", "wav"), ("aac", "wav"), ("mp2", "wav"), ("libmp3lame", "mp3"), ("aac", "mp4"), ("libopus", "matroska")],
)
def test_a_wav_file_may_hold_anything(tmp_path, codec, form):
    sound = tone(440, 1760, seconds=2, rate=48_000)
    path = write_sound(tmp_path / "clip.wav", sound, codec=codec, rate=48_000, form=form)
    heard = read_sound(path, None, None, 48_000)
    priming = len(heard) - 96_000
    assert 0 <= priming <= 2 * 1152
    assert_heard(heard[:96_000], (440, 1), (1760, 1), rate=48_000)
    assert pitch(read_sound(path, 1.2, 1.8, 48_000), 48_000) == pytest.approx(1760, abs=2)


def test_a_flac_file_named_mp3(tmp_path):
    (tmp_path / "clip.mp3").write_bytes(encoded(tone(440), form="FLAC"))
    assert_heard(read_sound(tmp_path / "clip.mp3", None, None, RATE), (440, 1))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "flv", "aac", "wav"])
def test_where_the_sound_ends_is_known_without_hearing_it_all(tmp_path, kind):
    path, sound = tmp_path / f"clip.{kind}", tone(440, seconds=4)
    picture = None if kind in ("aac", "wav") else solid(RED, seconds=9)
    write_wav(path, sound) if kind == "wav" else write_sound(path, sound, picture=picture)
    heard = hear_file(path, 0.5, 1.0, RATE)
    assert len(heard.samples) == 0.5 * RATE
    assert heard.ends == pytest.approx(4, abs=0.15)


def test_the_picture_can_be_read_after_the_sound(tmp_path):
    path = write_mp4(tmp_path / "clip.mkv", solid(RED), tone(440))
    with open_media(path) as container:
        decode_audio(container, None, None, RATE)
        assert len(list(container.decode(video=0))) == 25
